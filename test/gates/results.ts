import { camelKeys } from "../../src/core/bench/names.js";
import { type BenchResult, type Cell, cellSchema } from "../../src/core/bench/result.js";
import { qualityOf, savedResult, serveOf, workerResult } from "../bench/fixtures.js";

export type Load = NonNullable<Cell["throughput"]>[number];

/** Of a bf16 cell of the same model in 128 MiB, as it was measured. */
export const FILL = {
  tokens: 5760,
  filledTokens: 5629,
  sequences: 3,
  filledSequences: 3,
  longest: 2048,
  sequencesLimit: 4,
  newTokens: 58,
  preemptions: 0,
  seconds: 7.6,
};

const LATENCY = { mean: 100, p50: 100, p99: 117.8 };

/** Of a server that bears one user, as it was measured, cut to the runs that decide. */
const USERS = {
  inputTokens: 128,
  outputTokens: 16,
  requests: 3,
  most: 8,
  slo: { ttftMs: 3000, tpotMs: 60 },
  seed: 0,
  startSeconds: 30,
  users: 1,
  broken: 2,
  runs: [true, false].map((held, index) => ({
    users: index + 1,
    held,
    counted: 2 * (index + 1),
    durationSeconds: 4,
    outputTokensPerSecond: 23.9,
    ttftMs: LATENCY,
    tpotMs: LATENCY,
    e2elMs: LATENCY,
  })),
};

/** A measured cell; k4v4 gets a load and the text of the other two, which its recorded result is without. */
export function cell(cache: "bf16" | "fp8" | "k4v4", more: Partial<Cell> = {}): Cell {
  const own = camelKeys(workerResult(cache)) as Partial<Cell>;
  const fp8 = camelKeys(workerResult("fp8")) as Partial<Cell>;
  const text = { ...fp8.perplexity, ...own.perplexity, scoredTokens: 16368, windows: 16 };
  return cellSchema.parse({
    throughput: fp8.throughput,
    ...own,
    perplexity: text,
    quality: cache === "fp8" ? undefined : camelKeys(qualityOf(cache)),
    fill: FILL,
    concurrency: USERS,
    serve: cache === "fp8" ? undefined : serveOf(cache),
    key: cache,
    cacheDtype: cache,
    optional: false,
    startedAt: "2026-01-02T03:04:05.000Z",
    seconds: 1,
    log: "/tmp/log",
    ...more,
  });
}

/** A load with equal samples: no noise, these very rates. */
export function steady(
  shape: string,
  prefill: number,
  decode: number | null,
  more: Partial<Load> = {},
): Load {
  const [batch = 0, context = 0, tokens = 0] = shape.split(/[x+]/).map(Number);
  const prefillSeconds = (batch * context) / prefill;
  const decodeSeconds = decode === null ? 0 : (batch * tokens) / decode;
  return {
    shape,
    batch,
    context,
    new: tokens,
    prefillTokensPerSecond: prefill,
    decodeTokensPerSecond: decode,
    warmupSeconds: 1,
    samples: Array(3).fill({ prefillSeconds, totalSeconds: prefillSeconds + decodeSeconds }),
    fits: true,
    ...more,
  };
}

export function result(cells: readonly Cell[], more: Partial<BenchResult> = {}): BenchResult {
  return savedResult(cells, {
    model: "/models/smollm2",
    modelFingerprint: "f1",
    config: { device: "cpu", kvMemoryBytes: 2 ** 30, dtype: "bfloat16" },
    ...more,
  });
}

export const good = (): BenchResult => result([cell("bf16"), cell("fp8"), cell("k4v4")]);
