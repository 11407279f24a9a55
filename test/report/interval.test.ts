import { describe, expect, it } from "vitest";
import type { Report } from "../../src/core/report/index.js";
import { figureRecords } from "../../src/report/records.js";
import { renderTable } from "../../src/report/table.js";
import { cell, result, steady } from "../gates/results.js";

/** Loads of 4 x 1024 + 32 tokens: decode of 0.5 s, prefill of the seconds given. */
function load(...prefill: number[]) {
  const samples = prefill.map((prefillSeconds) => ({ prefillSeconds, totalSeconds: prefillSeconds + 0.5 }));
  const middle = [...prefill].sort((a, b) => a - b)[prefill.length >> 1] ?? Number.NaN;
  return steady("4x1024+32", 4096 / middle, 256, { samples });
}

function measured(base: number[], own: number[]): Report {
  const cells = [cell("bf16", { throughput: [load(...base)] }), cell("k4v4", { throughput: [load(...own)] })];
  return { sets: [{ name: "one", path: "", result: result(cells) }], unlike: [], changed: [] };
}

const table = (report: Report): string => renderTable(report.sets[0]?.result ?? result([]));
const prefill = (report: Report) =>
  figureRecords(report).find(
    ({ cache, metric }) => cache === "k4v4" && metric === "prefill_tokens_per_second",
  );

describe("a ratio", () => {
  it("has the range of its samples", () => {
    const report = measured([2, 2.1, 2.2], [1, 1.05, 1.1]);
    expect(table(report)).toContain("2.00x [1.82-2.20]");
    expect(prefill(report)).toMatchObject({ ratioToBaseline: 2, ratioLow: 2 / 1.1, ratioHigh: 2.2 });
  });

  it("is within noise where the samples leave open which is more", () => {
    expect(table(measured([1, 1.1, 1.2], [1, 1.05, 1.15]))).toContain("within noise [0.87-1.20]");
  });

  it("has no range with one sample: its noise is not known", () => {
    const report = measured([2], [1]);
    expect(table(report)).toMatch(/ 2\.00x( |$)/m);
    expect(table(report)).not.toMatch(/k4v4.*\[/);
    expect(prefill(report)).toMatchObject({ ratioToBaseline: 2, ratioLow: null, ratioHigh: null });
  });
});

describe("a perplexity", () => {
  const nll = (base: number[], own: number[], more = {}): Report => {
    const scored = (windowNll: number[]) => {
      const mean = windowNll.reduce((sum, one) => sum + one, 0) / windowNll.length;
      const about = { window: 1024, windows: windowNll.length, scoredTokens: 1023 * windowNll.length };
      return { perplexity: Math.exp(mean), nll: mean, windowNll, textSha256: "a", ...about };
    };
    const cells = [
      cell("bf16", { perplexity: scored(base) }),
      cell("k4v4", { perplexity: { ...scored(own), ...more } }),
    ];
    return { sets: [{ name: "one", path: "", result: result(cells) }], unlike: [], changed: [] };
  };
  const record = (report: Report) =>
    figureRecords(report).find(({ cache, metric }) => cache === "k4v4" && metric === "perplexity");

  it("is compared window by window, however much the windows differ", () => {
    // Differences 0.01, 0.02, 0.03: mean 0.02, standard error 0.01 / sqrt(3), t of 2 degrees of freedom 4.30265.
    const report = nll([2, 3, 4], [2.01, 3.02, 4.03]);
    expect(record(report)?.ratioLow).toBeCloseTo(Math.exp(0.02 - 4.30265 * (0.01 / Math.sqrt(3))), 6);
    expect(record(report)?.ratioHigh).toBeCloseTo(Math.exp(0.02 + 4.30265 * (0.01 / Math.sqrt(3))), 6);
    expect(table(report)).toContain("within noise [-0.48 to +4.59 %]");
    expect(table(report)).toContain("95 % confidence interval");
    expect(table(nll([2, 3, 4], [2.02, 3.02, 4.021]))).toContain("+2.05 % [+1.91 to +2.20 %]");
  });

  it("is the same where nothing differs", () => {
    expect(table(nll([2, 3], [2, 3]))).toContain("within noise [+0.00 to +0.00 %]");
  });

  it.each([
    ["one window", [2], [2.1], {}],
    ["another text", [2, 3], [2.1, 3.1], { textSha256: "b" }],
    ["other windows", [2, 3], [2.1, 3.1], { window: 512 }],
  ])("has no interval with %s", (_, base, own, more) => {
    expect(record(nll(base, own, more))).toMatchObject({ ratioLow: null, ratioHigh: null });
  });
});
