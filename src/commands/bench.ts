import { CACHE_NAMES } from "../core/bench/caches.js";
import { DEFAULT_SUITES, SUITES } from "../core/bench/config.js";
import { defineCommand } from "../shared/command.js";

export const bench = defineCommand({
  name: "bench",
  summary: "measure bf16, fp8 and KIVI caches: capacity, throughput, perplexity, quality, serving",
  description:
    "Runs one fresh vLLM engine for each KV cache with the same memory, and measures how many tokens it holds, how fast " +
    "it is and what it costs in perplexity, and if asked how far its answers move from those of bf16 (quality) and how a " +
    "server stands up to requests that arrive at given rates (serve, with vLLM's own load client; concurrency: how many users it bears within limits). The bf16 cache runs first; the table shows ratios to it. The result is saved " +
    "after each cell. Exit code 1 when a cell that was asked for could not run, or a condition of --fail-if holds or has " +
    "no figure (kivi gate --help lists the metrics).",
  examples: [
    { command: "kivi bench ./smollm2 --venv .venv", explanation: "the whole matrix" },
    {
      command: "kivi bench ./smollm2 --caches bf16,k4v4 --suites throughput --shapes 4x1024+32,1x4096+64",
      explanation: "decode and prefill speed of two caches under two loads",
    },
    {
      command: "kivi bench ./smollm2 --caches bf16,k4v4 --suites quality",
      explanation: "KL divergence, greedy answers and needles in a haystack",
    },
    {
      command: "kivi bench ./smollm2 --caches bf16,k4v4 --suites serve --rates 0.5,2,inf",
      explanation: "an HTTP server for each cache: requests/s, TTFT, TPOT and ITL at three arrival rates",
    },
    {
      command: "kivi bench ./smollm2 --config matrix.yaml --dry-run",
      explanation: "what a saved matrix would run",
    },
    {
      command: "kivi bench ./smollm2 --caches bf16,k4v4 --fail-if 'k4v4.capacity_ratio < 3.6'",
      explanation: "exit code 1 when k4v4 holds fewer than 3.6 times the tokens of bf16",
    },
  ],
  arguments: [
    {
      name: "model",
      description:
        "folders with config.json and weights, or names on the Hugging Face hub; of several, each has a result of its own",
      variadic: true,
    },
  ],
  options: [
    {
      flags: "--venv <folder>",
      description: "the environment with vLLM and the plugin",
      defaultText: "$VIRTUAL_ENV or .venv",
    },
    {
      flags: "--caches <list>",
      description: "bf16, presets of KIVI, and any KV cache of the installed vLLM",
      defaultText: CACHE_NAMES.join(","),
    },
    { flags: "--suites <list>", description: SUITES.join(", "), defaultText: DEFAULT_SUITES.join(",") },
    {
      flags: "--shapes <list>",
      description: "loads as batch x context + new tokens",
      defaultText: "4x1024+32",
    },
    { flags: "--repeats <number>", description: "samples of each throughput load", defaultText: "3" },
    {
      flags: "--rounds <number>",
      description:
        "times that throughput and serve go through all caches, there and back, with fresh engines",
      defaultText: "1",
    },
    {
      flags: "--rates <list>",
      description: "requests a second of the suite serve; inf sends all at once",
      defaultText: "1,inf on CPU, 2,8,inf on GPU",
    },
    {
      flags: "--text <file>",
      description: "text for perplexity and quality; or a data set, as NAME:CONFIG:SPLIT (bench/README.md)",
      defaultText: "a bundled public-domain one",
    },
    { flags: "--window <tokens>", description: "tokens of a perplexity window", defaultText: "1024" },
    {
      flags: "--windows <number>",
      description: "most windows to score",
      defaultText: "16 on CPU, 32 on GPU",
    },
    {
      flags: "--context <tokens>",
      description: "sequence length at which concurrency is counted",
      defaultText: "the model length",
    },
    {
      flags: "--kv-memory <size>",
      description: "cache memory of every cell, e.g. 4GiB; KIVI's staging is paid from it",
      defaultText: "1GiB on CPU",
    },
    {
      flags: "--gpu-memory-utilization <share>",
      description: "instead of --kv-memory: share of the GPU for each engine",
      defaultText: "0.8 on GPU",
    },
    {
      flags: "--max-model-len <tokens>",
      description: "longest sequence",
      defaultText: "what loads and windows need",
    },
    {
      flags: "--max-num-seqs <number>",
      description: "sequences at once; KIVI stages for each",
      defaultText: "16 or the largest batch; serve on GPU: 512",
    },
    {
      flags: "--max-batched-tokens <tokens>",
      description: "prefill chunk",
      defaultText: "512 on CPU, 2048 on GPU",
    },
    {
      flags: "--dtype <name>",
      description: "model dtype: bfloat16, float16, float32",
      defaultText: "bfloat16",
    },
    { flags: "--tensor-parallel <number>", description: "GPUs of one engine", defaultText: "1" },
    {
      flags: "--execution <kind>",
      description: "eager or compiled",
      defaultText: "eager on CPU, compiled on GPU",
    },
    {
      flags: "--load-format <kind>",
      description: "auto, or dummy for random weights (no perplexity, no quality)",
      defaultText: "auto",
    },
    { flags: "--seed <number>", description: "of random prompts and places in the text", defaultText: "0" },
    { flags: "--output <file>", description: "result file", defaultText: "kivi-bench.json" },
    { flags: "--resume", description: "keep the cells of the result file that equal those asked for" },
    {
      flags: "--fail-if <condition>",
      description: "exit with 1 if it holds, e.g. 'k4v4.decode_ratio < 0.9'; may be given more than once",
      repeatable: true,
    },
    { flags: "--baseline <file>", description: "an earlier result, for conditions with drop and rise" },
    {
      flags: "--config <file>",
      description:
        "YAML with these names as keys (and kivi: for settings, quality:, serving: and concurrency: for sizes, thresholds: for conditions); flags win",
    },
    { flags: "--dry-run", description: "print the cells, run nothing" },
  ],
  passThrough: {
    name: "vllm args",
    description:
      "handed to vLLM as they are, e.g. --pipeline-parallel-size 2 --distributed-executor-backend ray",
  },
  schema: async () => (await import("./bench.schema.js")).schema,
  handler: async () => (await import("./bench.handler.js")).handler,
});
