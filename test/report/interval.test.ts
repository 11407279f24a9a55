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
