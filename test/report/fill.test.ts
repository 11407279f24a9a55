import { describe, expect, it } from "vitest";
import { renderTable } from "../../src/report/table.js";
import { cell, result } from "./results.js";

/** As measured for SmolLM2-135M in 128 MiB with room for 4 sequences of 2048 tokens. */
const FULL = {
  tokens: 5760,
  filledTokens: 5629,
  sequences: 3,
  filledSequences: 3,
  longest: 2048,
  sequencesLimit: 4,
  newTokens: 58,
  preemptions: 0,
  seconds: 7.6,
};
const FEW = { ...FULL, tokens: 19_328, filledTokens: 8188, sequences: 4, filledSequences: 4 };

function table(fill: object): string {
  const cells = [cell("bf16", { fill: FULL }), cell("k4v4", { fill })];
  return renderTable(result({ cells }));
}

describe("a filled cache", () => {
  it("stands beside what vLLM counts", () => {
    expect(table(FULL)).toMatch(/^cache +filled to +preempted\nbf16 +5,629 \(97\.7 %\) +0\n/m);
    expect(table(FULL)).not.toContain("was filled");
  });

  it("says why it proves nothing: too few sequences, or some that were thrown out", () => {
    expect(table(FEW)).toContain(
      "k4v4: Only 42.4 % of the cache was filled, by 4 sequences of at most 2048 tokens: raise --max-model-len",
    );
    expect(table({ ...FULL, preemptions: 2 })).toContain("k4v4: vLLM counts 5,760 tokens, but 2 sequences");
    expect(table({ ...FULL, filledTokens: 4000 })).toContain("sequences ended before all were there");
  });
});
