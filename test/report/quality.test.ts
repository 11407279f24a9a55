import { describe, expect, it } from "vitest";
import { camelKeys } from "../../src/core/bench/names.js";
import { METRIC_NAMES } from "../../src/core/gates/metrics.js";
import { qualityOf } from "../bench/fixtures.js";
import { temporaryFolder } from "../helpers/cli.js";
import { cell, result, save } from "./results.js";
import { report } from "./run.js";

const home = temporaryFolder();
const quality = (cache: "bf16" | "k4v4") => camelKeys(qualityOf(cache)) as Record<string, object>;
const only = (cache: "bf16" | "k4v4", more: object = {}) =>
  cell(cache, {
    capacity: undefined,
    throughput: undefined,
    perplexity: undefined,
    quality: { ...quality(cache), ...more },
  });
save(home, "answers.json", result({ cells: [only("bf16"), only("k4v4")], suites: ["quality"] }));
save(home, "reseeded.json", result({ cells: [only("bf16", { seed: 7 })], suites: ["quality"] }));

describe("a result of the quality suite", () => {
  it("is a table of its own, with what was asked", async () => {
    const { code, stdout } = await report(home, ["answers.json"]);
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "HuggingFaceTB/SmolLM2-135M-Instruct (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi 0.1.0, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      quality against bf16: 4 windows of 512 tokens (top 64), 8 greedy answers of 64 tokens to prompts of 256, 24 needles in 512/1024 tokens at 10/50/90 %, 8 tool calls after 256 tokens, seed 0

      cache  KL mean  KL p99  top-1 agreement  greedy prefix  greedy identical  needle accuracy  calls JSON  calls valid  calls correct
      bf16         -       -                -              -                 -          100.0 %      75.0 %       12.5 %          0.0 %
      k4v4   0.00580  0.0381           95.6 %     18.4 of 64            12.5 %          100.0 %      75.0 %       25.0 %          0.0 %
      "
    `);
  });

  it("has a record for each figure there is, under the names of the gates", async () => {
    const { stdout } = await report(home, ["answers.json", "--format", "json"]);
    const { figures } = JSON.parse(stdout) as { figures: { cache: string; metric: string; unit: string }[] };
    const of = (cache: string) => figures.filter((one) => one.cache === cache).map((one) => one.metric);
    const alone = ["needle_accuracy", "call_json", "call_valid", "call_correct"];
    expect(of("bf16")).toEqual(alone);
    expect(of("k4v4")).toEqual([
      "kl_mean",
      "kl_p99",
      "top1_agreement",
      "greedy_prefix_tokens",
      "greedy_identical",
      ...alone,
    ]);
    for (const { metric } of figures) expect(METRIC_NAMES).toContain(metric);
    expect(figures.find((one) => one.metric === "kl_mean")?.unit).toBe("nats");
  });

  it("is not compared with one of another seed", async () => {
    const { code, stderr } = await report(home, ["answers.json", "reseeded.json"]);
    expect(code).toBe(2);
    expect(stderr).toContain("quality setup");
  });
});
