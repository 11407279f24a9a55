import { describe, expect, it } from "vitest";
import { METRIC_NAMES } from "../../src/core/gates/metrics.js";
import { servings } from "../../src/report/html/data.js";
import { serveOf } from "../bench/fixtures.js";
import { temporaryFolder } from "../helpers/cli.js";
import { cell, result, save } from "./results.js";
import { report } from "./run.js";

const home = temporaryFolder();
const only = (cache: "bf16" | "k4v4", more: object = {}) =>
  cell(cache, {
    capacity: undefined,
    throughput: undefined,
    perplexity: undefined,
    serve: { ...serveOf(cache), ...more },
  });
const served = result({ cells: [only("bf16"), only("k4v4")], suites: ["serve"] });
save(home, "served.json", served);
save(home, "longer.json", result({ cells: [only("bf16", { inputTokens: 4096 })], suites: ["serve"] }));

describe("a result of the suite serve", () => {
  it("is a table for each rate, with what was asked", async () => {
    const { code, stdout } = await report(home, ["served.json"]);
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi 0.1.0, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      serving: 12 requests of 128 + 16 tokens at each rate, 1 run, 4 to warm up, limits ttft 4000 ms, tpot 200 ms, seed 0

      cache  req/s at 1         goodput at 1         tok/s at 1         TTFT p50 at 1  TTFT p99 at 1  TPOT p50 at 1  ITL p99 at 1
      bf16         0.94  1.00x          0.94  1.00x        15.0  1.00x            237            297           43.8           204
      k4v4         0.91  0.97x          0.91  0.97x        14.5  0.97x            303            422           61.0           276

      cache  req/s at inf         goodput at inf         tok/s at inf         TTFT p50 at inf  TTFT p99 at inf  TPOT p50 at inf  ITL p99 at inf
      bf16           3.02  1.00x            3.02  1.00x          48.3  1.00x            1,608            3,078             98.0             519
      k4v4           2.60  0.86x            2.60  0.86x          41.7  0.86x            2,092            3,887              120             749

      At: requests/s that arrive, inf is all at once. TTFT, TPOT and ITL in ms, by vLLM's own client.
      "
    `);
  });

  it("has records of all its figures, under the names of the gates", async () => {
    const { stdout } = await report(home, ["served.json", "--format", "json"]);
    const { figures } = JSON.parse(stdout) as {
      figures: { cache: string; metric: string; load: string; unit: string; ratioToBaseline: number }[];
    };
    const gates = METRIC_NAMES.filter((name) => name.startsWith("serve_") && !name.endsWith("_ratio"));
    for (const rate of ["1", "inf"]) {
      const own = figures.filter(({ cache, load }) => cache === "k4v4" && load === rate);
      expect(own.map(({ metric }) => metric)).toEqual(gates);
    }
    expect(
      figures.find(({ metric, cache }) => metric === "serve_itl_p99_ms" && cache === "k4v4"),
    ).toMatchObject({
      load: "1",
      unit: "ms",
      ratioToBaseline: expect.closeTo(1.354, 3),
    });
  });

  it("leaves goodput out where there are no limits", async () => {
    const runs = { ...served.cells[0]?.serve?.loads[0]?.runs[0], goodput: undefined };
    const cells = [only("bf16", { loads: [{ rate: "2", runs: [runs] }] })];
    save(home, "unlimited.json", result({ cells, suites: ["serve"] }));
    const { stdout } = await report(home, ["unlimited.json"]);
    expect(stdout).toContain("req/s at 2");
    expect(stdout).not.toContain("goodput");
  });

  it("says no ratio to a goodput of 0", async () => {
    const [run] = served.cells[0]?.serve?.loads[0]?.runs ?? [];
    const serve = { loads: [{ rate: "2", runs: [{ ...run, goodput: 0 }] }] };
    save(home, "late.json", result({ cells: [only("bf16", serve), only("k4v4", serve)], suites: ["serve"] }));
    const { stdout } = await report(home, ["late.json"]);
    expect(stdout).toMatch(/^k4v4 .* 0\.00 /m);
    expect(stdout).not.toContain("NaN");
  });

  it("shows preemptions where there are some", async () => {
    const [run] = served.cells[0]?.serve?.loads[0]?.runs ?? [];
    const cells = [only("bf16", { loads: [{ rate: "inf", runs: [{ ...run, preemptions: 7 }] }] })];
    save(home, "crowded.json", result({ cells, suites: ["serve"] }));
    expect((await report(home, ["crowded.json"])).stdout).toMatch(/preempted at inf\nbf16 .* 7$/m);
  });

  it("marks a median of runs that differ", async () => {
    const [run] = served.cells[0]?.serve?.loads[0]?.runs ?? [];
    const runs = [1, 2, 3].map((requestsPerSecond) => ({ ...run, requestsPerSecond }));
    const cells = [only("bf16", { loads: [{ rate: "inf", runs }] })];
    save(home, "noisy.json", result({ cells, suites: ["serve"] }));
    expect((await report(home, ["noisy.json"])).stdout).toMatch(/^bf16 +~2\.00 /m);
  });

  it("is not put beside one of other requests", async () => {
    const { code, stderr } = await report(home, ["served.json", "longer.json"]);
    expect(code).toBe(2);
    expect(stderr).toContain("serving setup");
  });

  it("is drawn against the rate, in steps: all at once has no number", () => {
    const one = { sets: [{ name: "a", path: "a.json", result: served }], unlike: [], changed: [] };
    const drawn = servings(one);
    expect(drawn.map(({ title, unit, rates }) => [title, unit, rates])).toEqual([
      ["Requests served", "requests/s", ["1", "inf"]],
      ["Tokens served", "tokens/s", ["1", "inf"]],
      ["Time to first token, 99th percentile", "ms", ["1", "inf"]],
      ["Time between tokens, 99th percentile", "ms", ["1", "inf"]],
    ]);
    expect(drawn[0]?.points.map(({ cache, x }) => [cache, x])).toEqual([
      ["bf16", 0],
      ["bf16", 1],
      ["k4v4", 0],
      ["k4v4", 1],
    ]);
    const single = result({ cells: [only("bf16", { loads: served.cells[0]?.serve?.loads.slice(0, 1) })] });
    expect(servings({ ...one, sets: [{ name: "a", path: "a.json", result: single }] })).toEqual([]);
  });
});
