import { describe, expect, it } from "vitest";
import { camelKeys } from "../../src/core/bench/names.js";
import { renderTable } from "../../src/report/table.js";
import { savedResult, workerResult } from "./fixtures.js";

function cell(cache: string, more: object = {}) {
  const about = { key: cache, cache, cacheDtype: cache, optional: false, startedAt: "", seconds: 1, log: "" };
  return {
    ...about,
    ...(camelKeys(workerResult(cache === "fp8" ? "fp8" : "bf16")) as object),
    ...about,
    ...more,
  };
}

const unsupported = cell("k4v4", { status: "unsupported", reason: "the plugin did not load" });

describe("the table", () => {
  it("shows figures with ratios to the baseline, and why a cell has none", () => {
    expect(
      renderTable(savedResult([cell("bf16"), cell("fp8"), unsupported]), undefined, 160),
    ).toMatchInlineSnapshot(`
      "smollm2 (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi not installed, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      perplexity of 16 windows of 1024 tokens of a text

      cache  bytes/token         tokens held         seqs of 1,056  staging
      bf16        23,040  1.00x       46,592  1.00x           40.4        -
      fp8         11,520  0.50x       93,184  2.00x           80.9        -
      k4v4   unsupported: the plugin did not load

      cache  prefill 4x1024+32                            decode 4x1024+32
      bf16                 527                     1.00x             ~80.7                     1.00x
      fp8                  537  within noise [0.94-1.05]             ~81.4  within noise [0.52-1.36]
      k4v4   unsupported: the plugin did not load

      cache  perplexity
      bf16       24.606
      fp8        25.290  +2.78 %
      k4v4   unsupported: the plugin did not load

      Prefill and decode in tokens/s of the whole engine, medians.
      [low-high]: how far the ratio reaches over the samples of both.
      ~ samples differ by more than 15 %: the machine was busy; measure again or with more --repeats."
    `);
  });

  it("becomes one table a suite when the terminal is narrow", () => {
    const text = renderTable(savedResult([cell("bf16"), cell("fp8")]), undefined, 80);
    expect(text).toMatchInlineSnapshot(`
      "smollm2 (bfloat16) on AMD EPYC, 2 CPUs
      vLLM 0.26.0, torch 2.11.0+cu130, vllm-kivi not installed, kivi 0.1.0
      1.0 GiB of cache memory a cell, staging for 16 sequences counted, eager
      perplexity of 16 windows of 1024 tokens of a text

      cache  bytes/token         tokens held         seqs of 1,056  staging
      bf16        23,040  1.00x       46,592  1.00x           40.4        -
      fp8         11,520  0.50x       93,184  2.00x           80.9        -

      cache  prefill 4x1024+32                            decode 4x1024+32
      bf16                 527                     1.00x             ~80.7                     1.00x
      fp8                  537  within noise [0.94-1.05]             ~81.4  within noise [0.52-1.36]

      cache  perplexity
      bf16       24.606
      fp8        25.290  +2.78 %

      Prefill and decode in tokens/s of the whole engine, medians.
      [low-high]: how far the ratio reaches over the samples of both.
      ~ samples differ by more than 15 %: the machine was busy; measure again or with more --repeats.
      Not measured: k4v4"
    `);
    expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
  });

  it("says what could not be measured when the baseline is missing", () => {
    const failed = cell("bf16", { status: "failed", reason: "OSError: disk full" });
    expect(renderTable(savedResult([failed]))).toMatch(/^bf16 +failed: OSError: disk full$/m);
  });

  it("marks loads that do not fit and cells that are still to come", () => {
    const one = cell("bf16") as ReturnType<typeof cell> & { throughput: object[] };
    const full = { ...one, throughput: one.throughput.map((entry) => ({ ...entry, fits: false })) };
    const text = renderTable(savedResult([full], { complete: false }), undefined, 160);
    expect(text).toContain("80.7*");
    expect(text).toContain("* more tokens than this cache holds");
    expect(text).toContain("Not measured: fp8, k4v4");
    expect(text).toContain("Incomplete: the run is not finished or was interrupted.");
  });
});
