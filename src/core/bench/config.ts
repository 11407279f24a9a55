import { usageError } from "../../shared/errors.js";
import type { KiviSettings } from "../plugin/settings.js";
import { CACHE_NAMES, type CacheName } from "./caches.js";
import { DEFAULT_TASKS, type LmEvalSettings } from "./lm-eval.js";
import { completeQuality, longestSequence, type QualitySettings } from "./quality.js";
import { completeServing, longestServed, type ServingSettings } from "./serving/settings.js";
import { completeUsers, type UserSettings } from "./serving/user-settings.js";
import type { Shape } from "./shapes.js";

export const SUITES = [
  "capacity",
  "fill",
  "throughput",
  "perplexity",
  "quality",
  "lm-eval",
  "serve",
  "concurrency",
] as const;
export type Suite = (typeof SUITES)[number];

/** What runs unless suites are named: the others each take as long as these together, or longer. */
export const DEFAULT_SUITES: readonly Suite[] = ["capacity", "throughput", "perplexity"];

export type Device = "cpu" | "cuda";

/** Everything that decides what a matrix measures. */
export interface MatrixConfig {
  /** The environment's interpreter. */
  readonly python: string;
  readonly device: Device;
  /** A folder, or a name on the Hugging Face hub. */
  readonly model: string;
  readonly caches: readonly CacheName[];
  /** Caches that may be missing on this platform without making the run a failure. */
  readonly optional: readonly CacheName[];
  readonly suites: readonly Suite[];
  readonly shapes: readonly Shape[];
  readonly repeats: number;
  /** Times that the timed suites go through all caches, each time with fresh engines. */
  readonly rounds: number;
  readonly seed: number;
  /** Path of the text that perplexity and quality are measured on. */
  readonly text: string;
  /** The data set that it was taken from, as it was named. */
  readonly dataset?: string | undefined;
  readonly windowTokens: number;
  readonly maxWindows: number;
  readonly quality: QualitySettings;
  readonly lmEval: LmEvalSettings;
  readonly serving: ServingSettings;
  readonly users: UserSettings;
  /** Tokens of a sequence at which concurrency is counted. */
  readonly context: number;
  /** Memory for the cache of every cell; KIVI's staging is paid from it too. */
  readonly kvMemoryBytes?: number | undefined;
  /** Used where `kvMemoryBytes` is not given: vLLM then takes what is left of this share of the GPU. */
  readonly gpuMemoryUtilization?: number | undefined;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly dtype: string;
  readonly tensorParallelSize: number;
  /** For vLLM as they are, in the words of its command line; left out where there are none. */
  readonly vllmArgs?: readonly string[] | undefined;
  /** False lets vLLM compile the model and capture graphs. */
  readonly enforceEager: boolean;
  /** `dummy` measures the architecture with random weights: figures of speed and capacity hold, the others do not. */
  readonly loadFormat?: "auto" | "dummy" | undefined;
  readonly kivi?: KiviSettings | undefined;
  /** The result file, rewritten after each cell. */
  readonly output: string;
  /** Keep the cells of an earlier `output` that are of exactly this configuration. */
  readonly resume: boolean;
}

type Derived = "context" | "maxModelLen" | "maxNumSeqs";
type Required_ = "python" | "device" | "model" | "output" | "text";
export type MatrixRequest = Pick<MatrixConfig, Required_> &
  Partial<Omit<MatrixConfig, "quality" | "serving" | "users">> & {
    readonly quality?: Partial<QualitySettings> | undefined;
    readonly serving?: Partial<ServingSettings> | undefined;
    readonly users?: Partial<UserSettings> | undefined;
  };

const ROUND = 128;
const GPU_SERVER_SEQS = 512;

function defined<T extends object>(values: T): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** A sequence that does not fit would fail its cell, minutes later. A server is asked as it is, and says so itself. */
function requireRoom(maxModelLen: number | undefined, needed: Readonly<Record<string, number>>): void {
  const short = Object.entries(needed).filter(([, tokens]) => tokens > (maxModelLen ?? tokens));
  if (short.length === 0) return;
  const wants = short.map(([suite, tokens]) => `${suite} has sequences of ${tokens} tokens`).join(", ");
  throw usageError(
    "model-length-too-short",
    `--max-model-len ${maxModelLen} is too short: ${wants}`,
    `Leave --max-model-len out, or give at least ${Math.max(...short.map(([, tokens]) => tokens))}, or measure less`,
  );
}

/** Fills in what was not asked for: one place for the defaults of `kivi bench` and `kivi demo`. */
export function completeConfig(request: MatrixRequest): MatrixConfig {
  const cpu = request.device === "cpu";
  const given = defined(request);
  const settled: Omit<MatrixConfig, Derived> = {
    caches: CACHE_NAMES,
    optional: request.caches === undefined ? ["fp8"] : [],
    suites: DEFAULT_SUITES,
    shapes: [{ batch: 4, context: 1024, new: 32 }],
    repeats: 3,
    rounds: 1,
    seed: 0,
    lmEval: { tasks: DEFAULT_TASKS },
    windowTokens: 1024,
    maxWindows: cpu ? 16 : 32,
    ...(cpu ? { kvMemoryBytes: 2 ** 30 } : request.kvMemoryBytes ? {} : { gpuMemoryUtilization: 0.8 }),
    maxNumBatchedTokens: cpu ? 512 : 2048,
    dtype: "bfloat16",
    tensorParallelSize: 1,
    enforceEager: cpu,
    resume: false,
    ...(given as Pick<MatrixConfig, Required_>),
    quality: completeQuality(request.device, defined(request.quality ?? {})),
    serving: completeServing(request.device, defined(request.serving ?? {})),
    users: completeUsers(request.device, defined(request.users ?? {})),
  };
  const loads = settled.suites.includes("throughput") ? settled.shapes : [];
  const longest = Math.max(0, ...loads.map((shape) => shape.context + shape.new + 1));
  const scores = settled.suites.some((suite) => suite === "perplexity" || suite === "lm-eval");
  const scored = scores ? settled.windowTokens + 1 : 0;
  const compared = settled.suites.includes("quality") ? longestSequence(settled.quality) : 0;
  requireRoom(request.maxModelLen, { throughput: longest, perplexity: scored, quality: compared });
  const served = Math.max(
    settled.suites.includes("serve") ? longestServed(settled.serving) : 0,
    settled.suites.includes("concurrency") ? longestServed(settled.users) : 0,
  );
  const needed = Math.max(longest, scored, compared, served, ROUND);
  const length = request.maxModelLen ?? Math.ceil(needed / ROUND) * ROUND;
  // Fewer sequences than a cache holds would hide what it is worth under load.
  const least = served > 0 && !cpu ? GPU_SERVER_SEQS : 16;
  return {
    ...settled,
    maxModelLen: length,
    maxNumSeqs: request.maxNumSeqs ?? Math.max(least, ...loads.map((shape) => shape.batch)),
    context: request.context ?? length,
  };
}
