import { describe, expect, it } from "vitest";
import { renderTable } from "../../src/report/table.js";
import { FILL } from "../gates/results.js";
import { cell, result } from "./results.js";

const FEW = { ...FILL, tokens: 19_328, filledTokens: 8188, sequences: 4, filledSequences: 4 };

function table(fill: object): string {
  const cells = [cell("bf16", { fill: FILL }), cell("k4v4", { fill })];
  return renderTable(result({ cells }));
}

describe("a filled cache", () => {
  it("stands beside what vLLM counts", () => {
    expect(table(FILL)).toMatch(/^cache +filled to +preempted\nbf16 +5,629 \(97\.7 %\) +0\n/m);
    expect(table(FILL)).not.toContain("was filled");
  });

  it("says why it proves nothing: too few sequences, or some that were thrown out", () => {
    expect(table(FEW)).toContain(
      "k4v4: Only 42.4 % of the cache was filled, by 4 sequences of at most 2048 tokens: raise --max-model-len",
    );
    expect(table({ ...FILL, preemptions: 2 })).toContain("k4v4: vLLM counts 5,760 tokens, but 2 sequences");
    expect(table({ ...FILL, filledTokens: 4000 })).toContain("sequences ended before all were there");
  });
});
