/** The saved result of a matrix: one versioned JSON document that reporters read without the machine it came from. */
import { z } from "zod";
import { CACHE_NAME_FORM } from "./caches.js";
import { SUITES } from "./config.js";
import { lmEvalSchema } from "./lm-eval-result.js";
import { concurrencySchema, serveSchema } from "./serving/schema.js";

export const SCHEMA_VERSION = 1;
export const RESULT_KIND = "kivi-bench";

const cacheName = z.string().regex(CACHE_NAME_FORM, "expected the name of a cache");
const count = z.number().int().nonnegative();
const positive = z.number().positive();

const machine = z.object({
  vllm: z.string(),
  torch: z.string(),
  python: z.string(),
  plugin: z.string().nullable(),
  platform: z.string(),
  device: z.string(),
  deviceCount: count,
  /** Of NVIDIA; null without a GPU, not in the results of earlier versions. */
  driver: z.string().nullish(),
  cpus: count,
  os: z.string(),
});

const engine = z.object({
  blockSize: count,
  maxModelLen: count,
  maxNumSeqs: count,
  maxNumBatchedTokens: count,
  enforceEager: z.boolean(),
  dtype: z.string(),
  prefixCaching: z.boolean(),
  tensorParallelSize: count,
});

/** What a worker says of KIVI at its start; later versions of the plugin may say more. */
const kivi = z.looseObject({
  preset: z.string(),
  rotation: z.boolean(),
  clipping: z.boolean(),
  keyWindow: count,
  valueResidual: count,
  valueWindow: count,
});

const capacity = z.object({
  tokens: count,
  blockSize: count,
  numBlocks: count,
  bytesPerToken: positive,
  cacheBytes: count,
  stagingBytes: count,
  stagingSlots: count,
  totalBytes: count,
  context: count,
  concurrency: z.number().nonnegative(),
  specs: z.array(z.string()),
});

/** As many tokens in the cache at one moment as could be brought there. */
const fill = z.object({
  /** What vLLM says that it holds. */
  tokens: count,
  filledTokens: count,
  sequences: count,
  filledSequences: count,
  longest: count,
  sequencesLimit: count,
  newTokens: count,
  preemptions: count,
  seconds: positive,
});

const throughput = z.object({
  shape: z.string(),
  batch: count,
  context: count,
  new: count,
  prefillTokensPerSecond: positive,
  decodeTokensPerSecond: positive.nullable(),
  warmupSeconds: positive,
  samples: z.array(z.object({ prefillSeconds: positive, totalSeconds: positive })).min(1),
  fits: z.boolean(),
  /** Of the last minute, on average, and of the whole machine; not in the results of earlier versions. */
  host: z.object({ load: z.number().nonnegative(), cpus: count }).optional(),
});

const perplexity = z.object({
  perplexity: positive,
  nll: positive,
  scoredTokens: count,
  window: count,
  windows: count,
  windowNll: z.array(z.number()),
  textSha256: z.string(),
});

const share = z.number().min(0).max(1);

/** The figures against the baseline's answers are not in the baseline's own cell. */
const quality = z.object({
  textSha256: z.string(),
  seed: count,
  reference: z.object({ path: z.string(), sha256: z.string() }),
  divergence: z.object({
    window: count,
    windows: count,
    scoredTokens: count,
    topLogprobs: count,
    klMean: z.number().nonnegative().optional(),
    klP99: z.number().nonnegative().optional(),
    top1Agreement: share.optional(),
    unlistedMass: z.number().nonnegative().optional(),
    windowKl: z.array(z.number().nonnegative()).optional(),
  }),
  greedy: z.object({
    prompts: count,
    promptTokens: count,
    newTokens: count,
    prefixTokens: z.number().nonnegative().optional(),
    identical: share.optional(),
    prefixLengths: z.array(count).optional(),
  }),
  needle: z.object({
    questions: count,
    trials: count,
    chatTemplate: z.boolean(),
    accuracy: share,
    grid: z.array(z.object({ length: count, depth: count, accuracy: share })).min(1),
  }),
  /** Shares of the answers that are JSON, a call by its schema, and the very call; not in the results of earlier versions. */
  calls: z
    .object({
      calls: count,
      context: count,
      chatTemplate: z.boolean(),
      json: share,
      valid: share,
      correct: share,
    })
    .optional(),
});

/** What a worker writes; keys already in camelCase. */
export const workerResultSchema = z.object({
  status: z.enum(["ok", "unsupported", "failed"]),
  reason: z.string().optional(),
  machine: machine.optional(),
  startSeconds: positive.optional(),
  engine: engine.optional(),
  kivi: kivi.nullish(),
  capacity: capacity.optional(),
  /** Not in the results of earlier versions. */
  fill: fill.optional(),
  throughput: z.array(throughput).optional(),
  perplexity: perplexity.optional(),
  /** Not in the results of earlier versions. */
  quality: quality.optional(),
  /** Not in the results of earlier versions. */
  lmEval: lmEvalSchema.optional(),
  /** Written by kivi itself, beside what the worker says. */
  serve: serveSchema.optional(),
  concurrency: concurrencySchema.optional(),
});

export const cellSchema = workerResultSchema.extend({
  /** Hash of all that decides the figures: configuration, versions, hardware, model. */
  key: z.string(),
  cache: cacheName,
  cacheDtype: z.string(),
  /** Missing on a platform is then no failure of the run. */
  optional: z.boolean(),
  startedAt: z.string(),
  seconds: z.number().nonnegative(),
  log: z.string(),
  /** Rounds after the first, whose samples are among those of the first. */
  rounds: z
    .array(
      z.object({
        key: z.string(),
        startedAt: z.string(),
        seconds: z.number().nonnegative(),
        log: z.string(),
      }),
    )
    .optional(),
});

export const benchResultSchema = z.object({
  kind: z.literal(RESULT_KIND),
  schemaVersion: z.literal(SCHEMA_VERSION),
  tool: z.object({ name: z.literal("kivi"), version: z.string() }),
  createdAt: z.string(),
  updatedAt: z.string(),
  model: z.string(),
  /** The same for equal models at different paths; not in the results of earlier versions. */
  modelFingerprint: z.string().optional(),
  planned: z.array(cacheName),
  suites: z.array(z.enum(SUITES)),
  /** The words that kivi was started with; not in the results of earlier versions. */
  argv: z.array(z.string()).optional(),
  /** The whole configuration as it was run. */
  config: z.record(z.string(), z.unknown()),
  cells: z.array(cellSchema),
  /** False while cells are to come, and in the file of an interrupted run. */
  complete: z.boolean(),
});

export type WorkerResult = z.infer<typeof workerResultSchema>;
export type Cell = z.infer<typeof cellSchema>;
export type BenchResult = z.infer<typeof benchResultSchema>;

/** True when every cell that had to run did. */
export function passed(result: BenchResult): boolean {
  return (
    result.complete &&
    result.cells.every((cell) => cell.status === "ok" || (cell.optional && cell.status === "unsupported"))
  );
}
