/** What the suite `serve` saves of a cell: each run of vLLM's client under each load. */
import { z } from "zod";
import { parseRate, rateName } from "./settings.js";

const count = z.number().int().nonnegative();
const figure = z.number().nonnegative();

/** In milliseconds, over all requests (for `itl`, over all tokens). */
const latency = z.object({ mean: figure, p50: figure, p99: figure });

export const serveRunSchema = z.object({
  durationSeconds: z.number().positive(),
  completed: count,
  failed: count,
  requestsPerSecond: figure,
  outputTokensPerSecond: figure,
  totalTokensPerSecond: figure,
  ttftMs: latency,
  tpotMs: latency,
  itlMs: latency,
  e2elMs: latency,
  /** Requests a second that kept the limits; only where there are limits. */
  goodput: figure.optional(),
  /** The most requests that were under way in one second. */
  peakRequests: count.optional(),
  /** Sequences that lost their blocks and were computed again; where the server counts them. */
  preemptions: count.optional(),
});

const name = z.string().refine((text) => {
  const rate = parseRate(text);
  return rate !== undefined && rateName(rate) === text;
}, "expected requests a second, or inf");

const limit = z.number().positive().optional();
const slo = z.object({ ttftMs: limit, tpotMs: limit, e2elMs: limit });

export const serveSchema = z.object({
  prompts: count,
  inputTokens: count,
  outputTokens: count,
  warmupPrompts: count,
  seed: count,
  slo: slo.optional(),
  startSeconds: z.number().positive(),
  /** As the server counts them. */
  cacheTokens: count.optional(),
  loads: z.array(z.object({ rate: name, runs: z.array(serveRunSchema).min(1) })).min(1),
});

export const concurrencySchema = z.object({
  inputTokens: count,
  outputTokens: count,
  requests: count,
  most: count,
  slo,
  seed: count,
  startSeconds: z.number().positive(),
  cacheTokens: count.optional(),
  /** The most users that kept the limits, and the fewest that did not; null where all that were tried kept them. */
  users: count,
  broken: count.nullable(),
  runs: z
    .array(
      z.object({
        users: count,
        held: z.boolean(),
        /** Requests behind the latencies: all but each user's first. */
        counted: count,
        durationSeconds: z.number().positive(),
        outputTokensPerSecond: figure,
        ttftMs: latency,
        tpotMs: latency,
        e2elMs: latency,
        preemptions: count.optional(),
      }),
    )
    .min(1),
});

export type Concurrency = z.infer<typeof concurrencySchema>;
export type UsersRun = Concurrency["runs"][number];
export type ServeRun = z.infer<typeof serveRunSchema>;
export type Serve = z.infer<typeof serveSchema>;
