import { describe, expect, it } from "vitest";
import type { BenchResult, Cell } from "../../src/core/bench/index.js";
import { completeServing } from "../../src/core/bench/serving/index.js";
import { judge, parseGate, requireCoverage } from "../../src/core/gates/index.js";
import { gate } from "./gate.js";
import { cell, good, result } from "./results.js";

type Quality = NonNullable<Cell["quality"]>;

/** A good result whose cells have another `quality`. */
function changed(change: (quality: Quality, cache: string) => Quality | undefined): BenchResult {
  return result(
    good().cells.map((one) => ({ ...one, quality: one.quality && change(one.quality, one.cache) })),
  );
}

function judged(text: string, of: BenchResult = good(), baseline?: BenchResult) {
  const report = judge(of, [gate(text)], baseline);
  const [status, [verdict]] = Object.entries(report).find(([, list]) => list.length === 1) ?? ["none", []];
  return { status, ...verdict };
}

describe("a figure of quality", () => {
  const { divergence, greedy, needle } = cell("k4v4").quality as Quality;

  it.each([
    ["kl_mean", divergence.klMean],
    ["kl_p99", divergence.klP99],
    ["top1_agreement", divergence.top1Agreement],
    ["greedy_prefix_tokens", greedy.prefixTokens],
    ["greedy_identical", greedy.identical],
    ["needle_accuracy", needle.accuracy],
  ])("%s is read from the result", (name, value) => {
    expect(value).toBeTypeOf("number");
    expect(judged(`k4v4.${name} > 1e12`)).toMatchObject({ status: "passed", value });
  });

  it("against bf16 is none of bf16, but its needles are", () => {
    expect(parseGate("bf16.kl_mean > 0.1")).toMatchObject({
      problems: [expect.stringContaining("kl_mean compares with bf16, which cannot differ from itself")],
    });
    expect(judged("bf16.needle_accuracy < 0").status).toBe("passed");
  });

  it("is missing where the cell was not measured for it", () => {
    const message = "k4v4 was not measured for quality";
    const none = changed((quality, cache) => (cache === "k4v4" ? undefined : quality));
    expect(judged("k4v4.kl_mean > 1", none)).toMatchObject({
      status: "missing",
      message: expect.stringContaining(message),
    });
    expect(judged("k4v4.needle_accuracy < 1", none)).toMatchObject({
      status: "missing",
      message: expect.stringContaining(message),
    });
  });

  it("is missing where another bf16 run was what it was compared with", () => {
    const of = changed((quality, cache) =>
      cache === "bf16" ? { ...quality, reference: { ...quality.reference, sha256: "other" } } : quality,
    );
    expect(judged("k4v4.kl_mean > 99", of)).toMatchObject({
      status: "missing",
      message: expect.stringContaining("other answers than those of this bf16"),
    });
    expect(judged("k4v4.needle_accuracy < 0", of).status).toBe("passed");
  });

  it.each([
    ["k4v4.kl_mean", "window", (q: Quality) => ({ ...q, divergence: { ...q.divergence, window: 99 } })],
    ["k4v4.top1_agreement", "seed", (q: Quality) => ({ ...q, seed: 99 })],
    [
      "k4v4.greedy_prefix_tokens",
      "newTokens",
      (q: Quality) => ({ ...q, greedy: { ...q.greedy, newTokens: 9 } }),
    ],
    [
      "k4v4.needle_accuracy",
      "needleGrid",
      (q: Quality) => ({
        ...q,
        needle: { ...q.needle, grid: q.needle.grid.map((place) => ({ ...place, depth: 1 })) },
      }),
    ],
  ])("%s has no change against a result of another %s", (name, fact, change) => {
    expect(judged(`${name} rise > 1%`, good(), good()).status).toBe("passed");
    expect(judged(`${name} rise > 1%`, good(), changed(change))).toMatchObject({
      status: "missing",
      message: expect.stringContaining(`another ${fact}`),
    });
  });

  it("is refused before a run that leaves the suite out", () => {
    const run = {
      caches: ["k4v4"],
      suites: ["capacity"],
      shapes: [],
      serving: completeServing("cpu"),
    } as const;
    expect(() => requireCoverage([gate("k4v4.kl_mean > 0.1")], run)).toThrow(
      "no suite quality, only capacity",
    );
  });
});
