/** Results made of what real workers wrote, with figures for more caches and loads put in. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { camelKeys } from "../../src/core/bench/names.js";
import { type BenchResult, type Cell, cellSchema } from "../../src/core/bench/result.js";
import { savedResult, workerResult } from "../bench/fixtures.js";

/** Figures of SmolLM2-135M as once measured. */
const FIGURES = {
  bf16: { bytesPerToken: 23_040, tokens: 46_592, perplexity: 24.58, decode: 80 },
  fp8: { bytesPerToken: 11_520, tokens: 93_184, perplexity: 25.27, decode: 92 },
  k4v4: { bytesPerToken: 6165, tokens: 168_064, perplexity: 24.72, decode: 104 },
  k4v2: { bytesPerToken: 4995, tokens: 194_816, perplexity: 24.82, decode: 97 },
  k2v2: { bytesPerToken: 3960, tokens: 255_232, perplexity: 26.79, decode: 95 },
};

type Measured = keyof typeof FIGURES;
export const ALL = Object.keys(FIGURES) as Measured[];

interface Shape {
  readonly batch: number;
  readonly context: number;
}

export const SHAPES: readonly Shape[] = [4, 16, 64].map((batch) => ({ batch, context: 2048 }));

function throughput(cache: Measured, { batch, context }: Shape): object {
  const decode = FIGURES[cache].decode * batch ** 0.8;
  const prefill = cache === "bf16" ? 527 : 537;
  return {
    shape: `${batch}x${context}+32`,
    batch,
    context,
    new: 32,
    prefillTokensPerSecond: prefill,
    decodeTokensPerSecond: decode,
    warmupSeconds: 1,
    samples: [
      { prefillSeconds: 7.7, totalSeconds: 9 },
      { prefillSeconds: 7.8, totalSeconds: 9.1 },
    ],
    fits: true,
  };
}

export function cell(cache: Measured, more: object = {}, shapes: readonly Shape[] = SHAPES): Cell {
  const worker = camelKeys(workerResult(cache === "bf16" || cache === "fp8" ? cache : "k4v4")) as Cell;
  const { bytesPerToken, tokens, perplexity } = FIGURES[cache];
  return cellSchema.parse({
    ...worker,
    capacity: worker.capacity && {
      ...worker.capacity,
      bytesPerToken,
      tokens,
      concurrency: tokens / 1152,
      context: 1152,
    },
    perplexity: worker.perplexity && { ...worker.perplexity, windows: 12, perplexity },
    throughput: shapes.map((shape) => throughput(cache, shape)),
    key: cache,
    cache,
    cacheDtype: cache,
    optional: false,
    startedAt: "2026-01-02T03:04:05.000Z",
    seconds: 90,
    log: "/logs/cell.log",
    ...more,
  });
}

export function result(more: Partial<BenchResult> = {}): BenchResult {
  const cells = more.cells ?? ALL.map((cache) => cell(cache));
  return savedResult(cells, {
    updatedAt: "2026-01-02T03:14:05.000Z",
    model: "HuggingFaceTB/SmolLM2-135M-Instruct",
    planned: cells.map((one) => one.cache),
    config: { kvMemoryBytes: 2 ** 30, seed: 0 },
    ...more,
  });
}

/** A run that was interrupted: one cell cannot run here, one broke, one load is noisy and too large, one is to come. */
export function troubled(): BenchResult {
  const noisy = cell("k4v4");
  const [first, ...others] = noisy.throughput ?? [];
  if (first === undefined) throw new Error("no load");
  const samples = [
    { prefillSeconds: 7, totalSeconds: 9 },
    { prefillSeconds: 9, totalSeconds: 14 },
  ];
  return result({
    cells: [
      cell("bf16"),
      cell("fp8", { status: "unsupported", optional: true, reason: "needs AVX-512" }),
      { ...noisy, throughput: [{ ...first, samples, fits: false }, ...others] },
      cell("k4v2", { status: "failed", reason: "RuntimeError: 50% done\nsee: a,b" }),
    ],
    planned: ["bf16", "fp8", "k4v4", "k4v2", "k2v2"],
    complete: false,
  });
}

export function save(folder: string, name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}
