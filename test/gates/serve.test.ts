import { describe, expect, it } from "vitest";
import type { BenchResult, Cell } from "../../src/core/bench/index.js";
import { completeServing } from "../../src/core/bench/serving/index.js";
import { judge, parseGate, requireCoverage } from "../../src/core/gates/index.js";
import { gate } from "./gate.js";
import { cell, good, result } from "./results.js";

type Serve = NonNullable<Cell["serve"]>;

function judged(text: string, of: BenchResult = good(), baseline?: BenchResult) {
  const report = judge(of, [gate(text)], baseline);
  const [status, [verdict]] = Object.entries(report).find(([, list]) => list.length === 1) ?? ["none", []];
  return { status, ...verdict };
}

/** A good result whose cells have another `serve`. */
function changed(change: (serve: Serve, cache: string) => Serve | undefined): BenchResult {
  return result(good().cells.map((one) => ({ ...one, serve: one.serve && change(one.serve, one.cache) })));
}

/** The same with the first run of each load repeated, with these requests/s. */
function repeated(rates: Record<string, number[]>): BenchResult {
  return changed((serve, cache) => ({
    ...serve,
    loads: serve.loads.map(({ rate, runs: [run] }) => ({
      rate,
      runs: (rates[cache] ?? []).map((requestsPerSecond) => ({
        ...(run as Serve["loads"][0]["runs"][0]),
        requestsPerSecond,
      })),
    })),
  }));
}

describe("a figure of a server", () => {
  const [own, base] = (["k4v4", "bf16"] as const).map((cache) => cell(cache).serve?.loads[1]?.runs[0]);

  it.each([
    ["serve_requests_per_second[inf]", own?.requestsPerSecond],
    ["serve_requests_per_second_ratio[inf]", (own?.requestsPerSecond ?? 0) / (base?.requestsPerSecond ?? 1)],
    ["serve_goodput[inf]", own?.goodput],
    ["serve_output_tokens_per_second[inf]", own?.outputTokensPerSecond],
    ["serve_ttft_mean_ms[inf]", own?.ttftMs.mean],
    ["serve_tpot_p50_ms[inf]", own?.tpotMs.p50],
    ["serve_itl_p99_ms[inf]", own?.itlMs.p99],
    ["serve_itl_p99_ratio[inf]", (own?.itlMs.p99 ?? 0) / (base?.itlMs.p99 ?? 1)],
    ["serve_preemptions[inf]", own?.preemptions],
  ])("%s is read from the result", (name, value) => {
    expect(judged(`k4v4.${name} > 1e12`)).toMatchObject({ status: "passed", value, shape: "inf" });
  });

  it("without a rate is the worst of all rates", () => {
    expect(judged("k4v4.serve_itl_p99_ms > 1")).toMatchObject({ status: "failed", shape: "inf" });
    expect(judged("k4v4.serve_output_tokens_per_second < 1e9")).toMatchObject({ shape: "1" });
  });

  it("is the median of its runs, and they are its noise", () => {
    const runs = { bf16: [1, 1, 1], k4v4: [1.1, 1.6, 1.3] };
    const verdict = judged("k4v4.serve_requests_per_second_ratio[inf] < 1.2", repeated(runs));
    expect(verdict).toMatchObject({ status: "passed", value: 1.3, withinNoise: true });
  });

  it.each([
    ["k4v4.serve_requests_per_second[2] < 1", "k4v4 was not measured for serve_requests_per_second at 2"],
    ["fp8.serve_itl_p99_ms[inf] > 1", "fp8 was not measured for serve_itl_p99 at inf requests/s"],
  ])("%s that is not there is missing", (text, words) => {
    expect(judged(text)).toMatchObject({ status: "missing", message: expect.stringContaining(words) });
  });

  it("of no server at all is missing", () => {
    const message = expect.stringContaining("the result has no serve");
    expect(
      judged(
        "k4v4.serve_itl_p99_ms > 1",
        changed(() => undefined),
      ),
    ).toMatchObject({ status: "missing", message });
  });

  it("has no drop against other requests, nor goodput against other limits", () => {
    const longer = changed((serve) => ({ ...serve, inputTokens: 4096 }));
    const stricter = changed((serve) => ({ ...serve, slo: { ttftMs: 1 } }));
    const text = "k4v4.serve_requests_per_second[inf] drop > 5%";
    expect(judged(text, good(), good())).toMatchObject({ status: "passed", value: 0 });
    expect(judged(text, good(), stricter).status).toBe("passed");
    expect(judged(text, good(), longer).message).toContain("another inputTokens");
    expect(judged("k4v4.serve_goodput[inf] drop > 5%", good(), stricter).message).toContain("another ttftMs");
  });
});

describe("a gate on a server", () => {
  it.each([
    [
      "k4v4.serve_itl_p99_ms[4x1024+32] > 1",
      'expected a load such as [0.5] or [inf], in requests a second, found "[4x1024+32]"',
    ],
    ["k4v4.serve_itl_p99_ms[2.0] > 1", 'found "[2.0]"'],
    ["k4v4.decode_ratio[inf] < 1", 'expected a load such as [4x1024+32], found "[inf]"'],
    ["bf16.serve_itl_p99_ratio[inf] > 1", "compares with bf16"],
    ["k4v4.serve_itl_p99[inf] > 1", 'unknown metric "serve_itl_p99"'],
  ])("%s cannot be read", (text, words) => {
    expect(parseGate(text)).toMatchObject({ problems: [expect.stringContaining(words)] });
  });

  it("needs the suite and the rate to be measured", () => {
    const base = { caches: ["k4v4"], shapes: [], serving: completeServing("cpu") } as const;
    const gates = [gate("k4v4.serve_itl_p99_ms[inf] > 1")];
    expect(() => requireCoverage(gates, { ...base, suites: ["serve"] })).not.toThrow();
    expect(() => requireCoverage(gates, { ...base, suites: ["capacity"] })).toThrow("no suite serve");
    const other = [gate("k4v4.serve_itl_p99_ms[2] > 1")];
    expect(() => requireCoverage(other, { ...base, suites: ["serve"] })).toThrow("no load 2, only 1, inf");
  });
});
