import { describe, expect, it } from "vitest";
import type { BenchResult, Cell } from "../../src/core/bench/index.js";
import { held, judge, METRICS } from "../../src/core/gates/index.js";
import { gate } from "./gate.js";
import { cell, good, result, steady } from "./results.js";

/** The one verdict on `text`, with the list it is in. */
function verdict(text: string, of: BenchResult = good(), baseline?: BenchResult) {
  const report = judge(of, [gate(text)], baseline);
  const [status, [only]] = Object.entries(report).find(([, list]) => list.length === 1) ?? ["none", []];
  return { status, ...only };
}

function withLoads(bf16: Cell["throughput"], k4v4: Cell["throughput"]): BenchResult {
  return result([cell("bf16", { throughput: bf16 }), cell("k4v4", { throughput: k4v4 })]);
}

describe("a figure", () => {
  it.each([
    ["capacity_tokens", 168064],
    ["capacity_ratio", 168064 / 46592],
    ["bytes_per_token", 6165],
    ["staging_bytes", 37601280],
    ["concurrency", 145.88888888888889],
    ["prefill_tokens_per_second", 537.3916818677593],
    ["prefill_ratio", 537.3916818677593 / 527.1810975255429],
    ["decode_tokens_per_second", 81.39849099051153],
    ["decode_ratio", 81.39849099051153 / 80.68737234622881],
    ["perplexity", 24.714845081981398],
    ["perplexity_increase_percent", 100 * (24.714845081981398 / 24.605500533290524 - 1)],
    ["start_seconds", 63.14055108100001],
  ])("%s is read from the result", (name, value) => {
    expect(verdict(`k4v4.${name} > 1e12`)).toMatchObject({ status: "passed", metric: name });
    expect(verdict(`k4v4.${name} > 1e12`).value).toBeCloseTo(value, 10);
  });

  it("is known for every metric there is", () => {
    const gates = METRICS.map(({ name }) => gate(`k4v4.${name} > 1e12`));
    expect(judge(good(), gates)).toMatchObject({ failed: [], missing: [] });
  });

  it.each([
    ["<", 3.608, "failed"],
    ["<", 3.607, "passed"],
    [">", 3.608, "passed"],
    [">", 3.607, "failed"],
  ])("is judged by %s %d", (operator, limit, status) => {
    expect(verdict(`k4v4.capacity_ratio ${operator} ${limit}`).status).toBe(status);
  });

  it.each([
    ["<", "passed"],
    ["<=", "failed"],
    [">", "passed"],
    [">=", "failed"],
  ])("that equals the limit is judged by %s exactly", (operator, status) => {
    expect(verdict(`k4v4.capacity_tokens ${operator} 168064`).status).toBe(status);
  });

  it("is told with the limit, the cache and the metric, and never rounded onto the limit", () => {
    expect(verdict("k4v4.capacity_ratio < 3.7").message).toBe("k4v4.capacity_ratio < 3.7: found 3.60714");
    expect(verdict("k4v4.capacity_ratio < 3.60714").message).toContain("found 3.607142857142857");
  });
});

describe("a metric with loads", () => {
  const loads = () =>
    withLoads(
      [steady("1x100+10", 100, 50), steady("2x200+20", 200, 40)],
      [steady("1x100+10", 90, 60), steady("2x200+20", 210, 30)],
    );

  it("is judged by the worst of them: the lowest for <, the highest for >", () => {
    expect(verdict("k4v4.decode_ratio < 0.7", loads())).toMatchObject({
      status: "passed",
      shape: "2x200+20",
      value: 0.75,
    });
    expect(verdict("k4v4.decode_ratio < 0.8", loads())).toMatchObject({
      status: "failed",
      message: "k4v4.decode_ratio < 0.8: found 0.75 under 2x200+20, the worst of 2 loads",
    });
    expect(verdict("k4v4.decode_ratio > 1.1", loads())).toMatchObject({ status: "failed", value: 1.2 });
  });

  it("is judged by the one that is named", () => {
    expect(verdict("k4v4.decode_ratio[1x100+10] < 1", loads())).toMatchObject({
      status: "passed",
      value: 1.2,
    });
    expect(verdict("k4v4.prefill_tokens_per_second[1x100+10] < 91", loads()).status).toBe("failed");
  });

  it("has no figure when the cell lacks a load that another was measured under", () => {
    const partial = withLoads(
      [steady("1x100+10", 1, 1), steady("2x200+20", 1, 1)],
      [steady("1x100+10", 1, 1)],
    );
    expect(verdict("k4v4.decode_tokens_per_second < 0.5", partial)).toMatchObject({
      status: "missing",
      shape: "2x200+20",
    });
  });

  it("has no figure where the rate was noise", () => {
    const noise = withLoads([steady("1x100+10", 1, 1)], [steady("1x100+10", 1, null)]);
    expect(verdict("k4v4.decode_ratio < 0.1", noise)).toMatchObject({ status: "missing", value: null });
  });

  it("says when a load did not fit", () => {
    const full = withLoads([steady("1x100+10", 1, 1, { fits: false })], [steady("1x100+10", 1, 1)]);
    expect(verdict("k4v4.decode_ratio < 0.1", full).message).toContain("bf16 does not hold all tokens");
  });
});

describe("noise", () => {
  it("is named where the samples alone would allow the other verdict, and the number still decides", () => {
    // Decode seconds of bf16: 1.98, 1.39, 1.59; of fp8: 2.68, 1.46, 1.57.
    const near = verdict("fp8.decode_ratio < 1.05");
    expect(near).toMatchObject({ status: "failed", withinNoise: true });
    expect(near.message).toMatch(
      /found 1\.00881 under 4x1024\+32 \(within noise: its samples reach from 0\.5\d+ to 1\.3\d+\)$/,
    );
    expect(verdict("fp8.decode_ratio < 0.95")).toMatchObject({ status: "passed", withinNoise: true });
  });

  it("is not named for a limit beyond all samples, nor for what is counted", () => {
    expect(verdict("fp8.decode_ratio < 0.4")).toMatchObject({ status: "passed", withinNoise: false });
    expect(verdict("k4v4.capacity_ratio < 3.6072")).toMatchObject({ withinNoise: false });
    const calm = withLoads([steady("1x100+10", 100, 50)], [steady("1x100+10", 100, 49)]);
    expect(verdict("k4v4.decode_ratio < 0.979", calm)).toMatchObject({
      status: "passed",
      withinNoise: false,
    });
  });

  it("is unknown of a single sample", () => {
    const one = steady("1x100+10", 100, 50);
    const once = withLoads([{ ...one, samples: one.samples.slice(0, 1) }], [steady("1x100+10", 100, 49)]);
    expect(verdict("k4v4.decode_ratio < 0.9", once).message).toContain(
      "one sample, so its noise is not known",
    );
  });

  it("may be without end where a sample's decode took no time at all", () => {
    const odd = steady("1x100+10", 100, 50);
    const flat = { prefillSeconds: 1, totalSeconds: 1 };
    const wild = withLoads([steady("1x100+10", 100, 50)], [{ ...odd, samples: [...odd.samples, flat] }]);
    expect(verdict("k4v4.decode_ratio > 1.5", wild).message).toContain("to no end");
    expect(JSON.parse(JSON.stringify(verdict("k4v4.decode_ratio > 1.5", wild))).value).toBe(1);
  });
});

describe("missing data", () => {
  it.each([
    ["a cell that was not measured", [cell("bf16")], "k4v4 was not measured"],
    [
      "a cell that failed, whatever it had measured before",
      [cell("bf16"), cell("k4v4", { status: "failed", reason: "out of memory\nTraceback" })],
      "k4v4 failed: out of memory",
    ],
    [
      "a cell that may be missing",
      [cell("bf16"), cell("k4v4", { status: "unsupported", optional: true, reason: "AVX-512" })],
      "k4v4 is unsupported: AVX-512",
    ],
    ["no baseline for a ratio", [cell("k4v4")], "bf16 was not measured"],
    ["no suite", [cell("bf16"), cell("k4v4", { capacity: undefined })], "k4v4 was not measured for capacity"],
  ])("never passes: %s", (_, cells, reason) => {
    const of = result(cells);
    const found = verdict("k4v4.capacity_ratio < 0", of);
    expect(found).toMatchObject({ status: "missing", value: null });
    expect(found.message).toBe(`k4v4.capacity_ratio < 0: ${reason}`);
    expect(held(judge(of, [gate("k4v4.capacity_ratio < 0")]))).toBe(false);
  });

  it("never passes: a result without any load", () => {
    const none = result([cell("bf16", { throughput: undefined }), cell("k4v4", { throughput: undefined })]);
    expect(verdict("k4v4.decode_ratio < 0", none)).toMatchObject({ status: "missing", shape: null });
  });

  it("never passes: perplexities of different text", () => {
    const base = cell("bf16");
    const perplexity = { ...(base.perplexity as NonNullable<Cell["perplexity"]>), scoredTokens: 12 };
    const of = result([{ ...base, perplexity }, cell("k4v4")]);
    expect(verdict("k4v4.perplexity_increase_percent > 99", of).message).toContain(
      "different text (scoredTokens)",
    );
  });

  it("is a base of nothing", () => {
    const base = cell("bf16");
    const capacity = { ...(base.capacity as NonNullable<Cell["capacity"]>), tokens: 0 };
    const of = result([{ ...base, capacity }, cell("k4v4")]);
    expect(verdict("k4v4.capacity_ratio < 3.6", of)).toMatchObject({ status: "missing" });
  });
});

describe("a capacity ratio", () => {
  it("says when the cells did not have the same memory", () => {
    const base = cell("bf16");
    const capacity = { ...(base.capacity as NonNullable<Cell["capacity"]>), totalBytes: 966367642 };
    const of = result([{ ...base, capacity }, cell("k4v4")]);
    expect(verdict("k4v4.capacity_ratio < 3.6", of).message).toContain(
      "not in the same memory: k4v4 had 1.00 GiB, bf16 0.90 GiB",
    );
    expect(verdict("k4v4.capacity_ratio < 3.6").message).not.toContain("same memory");
  });
});

describe("a change against an earlier result", () => {
  const run = (decode: number, more: Partial<BenchResult> = {}) =>
    result([cell("bf16"), cell("k4v4", { throughput: [steady("1x100+10", 100, decode)] })], more);
  const drop = "k4v4.decode_tokens_per_second drop > 5%";
  const named = "k4v4.decode_tokens_per_second[1x100+10] drop > 5%";

  it("is judged in percent of the earlier figure", () => {
    expect(verdict(named, run(94), run(100))).toMatchObject({
      status: "failed",
      message: `${named}: found 6 % under 1x100+10 (94 after 100)`,
    });
    expect(verdict(named, run(96), run(100)).status).toBe("passed");
    expect(verdict(named, run(200), run(100))).toMatchObject({ status: "passed", value: -100 });
  });

  it("is a drop or a rise", () => {
    const rise = named.replace("drop", "rise");
    expect(verdict(rise, run(106), run(100)).status).toBe("failed");
    expect(verdict(rise, run(50), run(100))).toMatchObject({ status: "passed", value: -50 });
    expect(verdict("k4v4.perplexity rise > 0%", run(1), run(1))).toMatchObject({
      status: "passed",
      value: 0,
    });
    expect(verdict("k4v4.perplexity drop > 0%", run(1), run(1))).toMatchObject({
      status: "passed",
      value: 0,
    });
  });

  it("needs every load of both results", () => {
    const more = result([
      cell("k4v4", { throughput: [steady("1x100+10", 100, 100), steady("2x200+20", 100, 100)] }),
    ]);
    const one = result([cell("k4v4", { throughput: [steady("1x100+10", 100, 100)] })]);
    for (const [now, old] of [
      [more, one],
      [one, more],
    ] as const) {
      expect(verdict(drop, now, old)).toMatchObject({ status: "missing", shape: "2x200+20" });
    }
    expect(verdict("k4v4.decode_tokens_per_second < 5", one, more).status).toBe("passed");
  });

  it.each([
    ["no earlier result", undefined, "no baseline result was given"],
    [
      "an earlier cell that failed",
      result([cell("k4v4", { status: "failed" })]),
      "in the baseline, k4v4 failed",
    ],
    ["another model", run(100, { modelFingerprint: "f2" }), "model /models/smollm2:"],
    ["another memory", run(100, { config: { device: "cpu", dtype: "bfloat16" } }), "config.kvMemoryBytes"],
  ])("has no figure for %s", (_, old, reason) => {
    const found = verdict(named, run(100), old);
    expect(found.status).toBe("missing");
    expect(found.message).toContain(reason);
  });

  it("has no figure on other hardware or with another engine, and names the fields", () => {
    const other = run(100);
    const [, k4v4] = other.cells as [Cell, Cell];
    const machine = { ...(k4v4.machine as NonNullable<Cell["machine"]>), device: "Xeon" };
    const engine = { ...(k4v4.engine as NonNullable<Cell["engine"]>), maxNumSeqs: 8 };
    const found = verdict(named, run(100), { ...other, cells: [{ ...k4v4, machine, engine }] });
    expect(found.message).toContain('machine.device: "AMD EPYC" here, "Xeon" in the baseline');
    expect(found.message).toContain("engine.maxNumSeqs: 16 here, 8 in the baseline");
  });

  it("knows a model by its fingerprint wherever it lies, and by its path where there is none", () => {
    expect(verdict(named, run(100), run(100, { model: "/elsewhere" })).status).toBe("passed");
    const before = { model: "/elsewhere", modelFingerprint: undefined };
    expect(verdict(named, run(100), run(100, before)).message).toContain('"/elsewhere" in the baseline');
  });

  it("lets versions differ, since they are what one compares", () => {
    const old = run(100);
    const cells = old.cells.map((one) => ({
      ...one,
      machine: one.machine && { ...one.machine, vllm: "0.25.0" },
    }));
    expect(verdict(named, run(100), { ...old, cells }).status).toBe("passed");
  });

  it("of concurrency or perplexity needs the same context or text", () => {
    const old = run(1);
    const cells = old.cells.map((one) => ({
      ...one,
      capacity: one.capacity && { ...one.capacity, context: 99 },
      perplexity: one.perplexity && { ...one.perplexity, textSha256: "other" },
    }));
    const changed = { ...old, cells };
    expect(verdict("k4v4.concurrency drop > 1%", run(1), changed).message).toContain("another context");
    expect(verdict("k4v4.perplexity rise > 1%", run(1), changed).message).toContain("another textSha256");
    expect(verdict("k4v4.capacity_tokens drop > 1%", run(1), changed).status).toBe("passed");
  });

  it("of staging that was nothing has no percentage", () => {
    expect(verdict("bf16.staging_bytes rise > 1%", good(), good())).toMatchObject({ status: "missing" });
  });
});

describe("a report", () => {
  it("sorts every gate into one list", () => {
    const texts = ["k4v4.capacity_ratio < 3.6", "k4v4.capacity_ratio < 4", "k2v2.perplexity > 1"];
    const report = judge(good(), texts.map(gate));
    expect([report.passed, report.failed, report.missing].map((list) => list.map((one) => one.gate))).toEqual(
      texts.map((text) => [text]),
    );
    expect(held(report)).toBe(false);
    expect(held(judge(good(), [gate("k4v4.capacity_ratio < 3.6")]))).toBe(true);
  });
});
