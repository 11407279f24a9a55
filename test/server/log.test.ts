import { describe, expect, it } from "vitest";
import { PhaseTracker } from "../../src/core/server/phases.js";
import { combineReports, parseReport } from "../../src/core/server/report.js";

/** As vLLM 0.26.0's CPU build writes them, in this order. */
const LOG = [
  "(APIServer pid=7192) INFO 11-23 14:30:49 [model.py:623] Resolved architecture: LlamaForCausalLM",
  "(APIServer pid=7192) INFO 11-23 14:30:49 [model.py:1788] Using max model len 2048",
  "(EngineCore pid=7307) INFO 11-23 14:31:07 [core.py:116] Initializing a V1 LLM engine (v0.26.0) with config: model='/m'",
  "(Worker pid=7387) INFO 11-23 14:31:26 [cpu_model_runner.py:128] Starting to load model /m...",
  "(Worker pid=7387) Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.51s/it]",
  "(Worker pid=7387) INFO 11-23 14:31:28 [default_loader.py:430] Loading weights took 1.52 seconds",
  "(Worker pid=7387) INFO 11-23 14:31:28 [cpu_model_runner.py:145] Warming up model for the compilation...",
  "(Worker pid=7387) INFO 11-23 14:32:05 [cpu_worker.py:248] Explicitly set (0.25/9.59) GiB for KV cache on node 0.",
  "(EngineCore pid=7307) INFO 11-23 14:32:06 [core.py:347] init engine (profile, create kv cache, warmup model) took 37.18 s",
];
const SERVING =
  "(APIServer pid=7192) INFO 11-23 14:32:08 [api_server.py:677] Starting vLLM server on http://127.0.0.1:8123";

describe("phases of a start", () => {
  it("follow the log and end with the HTTP server", () => {
    const tracker = new PhaseTracker();
    expect(LOG.map((line) => tracker.see(line))).toEqual([
      "reading the model's configuration",
      "starting the engine process",
      "starting the workers",
      "loading weights",
      "loading weights, 100 %",
      "weights loaded",
      "profiling",
      "allocating the cache",
      "engine ready",
    ]);
    expect(tracker.serving).toBe(false);
    expect(tracker.see(SERVING)).toBe("starting the HTTP server");
    expect(tracker.serving).toBe(true);
  });

  it("never go back", () => {
    const tracker = new PhaseTracker();
    tracker.see(SERVING);
    expect(LOG.filter((line) => !line.includes("shards")).map((line) => tracker.see(line))).toEqual(
      Array(8).fill(undefined),
    );
    expect(tracker.serving).toBe(true);
  });
});

const rank = (number: number, more: object = {}) =>
  `(Worker_TP${number} pid=9) INFO 11-23 [report.py:60] KIVI_REPORT ${JSON.stringify({
    version: 1,
    preset: "k4v2",
    key_bits: 4,
    value_bits: 2,
    key_group: 128,
    value_group: 32,
    key_window: 128,
    value_residual: 32,
    value_window: 96,
    rotation: true,
    clipping: true,
    rank: number,
    block_size: 128,
    num_blocks: 10,
    page_bytes: 1,
    layers: 32,
    bytes_per_token: 100.5,
    bf16_bytes_per_token: 512,
    tokens: 1280 - number,
    bf16_tokens: 300,
    staging_slots: 8,
    staging_bytes: 1000,
    ...more,
  })}`;

describe("the workers' reports", () => {
  it("add up over ranks, each counted once", () => {
    const lines = [rank(0), rank(1), rank(1), "(Worker pid=9) INFO nothing"].map(parseReport);
    const reports = lines.filter((line) => line !== undefined);
    expect(reports).toHaveLength(3);
    expect(combineReports(reports)).toMatchObject({
      preset: "k4v2",
      keyWindow: 128,
      valueResidual: 32,
      valueWindow: 96,
      engines: 1,
      ranks: 2,
      layers: 32,
      bytesPerToken: 201,
      bf16BytesPerToken: 1024,
      tokens: 1279,
      bf16Tokens: 300,
      stagingBytes: 2000,
    });
    expect(combineReports([])).toBeUndefined();
  });

  it("add up over the engines of data parallel, where a token is kept by one engine only", () => {
    const engine = (index: number, more: object) =>
      [0, 1].map((number) => rank(number, { data_parallel_rank: index, ...more }));
    const lines = [...engine(0, {}), ...engine(1, { tokens: 500, bf16_tokens: 100 }), rank(0)];
    const reports = lines.map(parseReport).filter((line) => line !== undefined);
    expect(combineReports(reports)).toMatchObject({
      engines: 2,
      ranks: 4,
      layers: 32,
      bytesPerToken: 201,
      bf16BytesPerToken: 1024,
      tokens: 1279 + 500,
      bf16Tokens: 300 + 100,
      stagingSlots: 16,
      stagingBytes: 4000,
    });
  });

  it.each([["KIVI_REPORT {"], [rank(0, { version: 2 })], [rank(0, { bytes_per_token: null })]])(
    "are not taken when unreadable: %s",
    (line) => {
      expect(parseReport(line)).toBeUndefined();
    },
  );
});
