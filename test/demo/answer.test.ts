import { describe, expect, it } from "vitest";
import type { CacheReport } from "../../src/core/server/index.js";
import { answerSummary } from "../../src/report/answer.js";

const answer = { text: "", promptTokens: 300, completionTokens: 11, firstTokenMs: 2000, totalMs: 7000 };
const k4v4 = {
  keyBits: 4,
  valueBits: 4,
  keyGroup: 128,
  keyWindow: 0,
  valueResidual: 64,
  valueWindow: 0,
} as CacheReport;
const windowed = {
  keyBits: 2,
  valueBits: 2,
  keyGroup: 32,
  keyWindow: 128,
  valueResidual: 32,
  valueWindow: 96,
} as CacheReport;

describe("the line on an answer", () => {
  it("says how fast it was and what of the prompt was read quantized", () => {
    expect(answerSummary(answer, k4v4)).toBe(
      "prompt of 300 tokens, 256 of their keys read in 4 bits, 256 of their values in 4, first token after 2.00 s, 2.00 tokens/s",
    );
  });

  it("leaves out what lies inside the windows", () => {
    expect(answerSummary(answer, windowed)).toContain(
      " 160 of their keys read in 2 bits, 192 of their values in 2,",
    );
    const short = { ...answer, promptTokens: 40, completionTokens: 1 };
    expect(answerSummary(short, windowed)).toContain(
      " 0 of their keys read in 2 bits, 0 of their values in 2,",
    );
    const edge = { ...answer, promptTokens: 127 };
    expect(answerSummary(edge, k4v4)).toContain(" 0 of their keys read in 4 bits, 64 of their values in 4,");
  });
});
