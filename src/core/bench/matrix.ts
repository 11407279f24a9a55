import { createHash } from "node:crypto";
import { join } from "node:path";
import { pluginSettings } from "../plugin/settings.js";
import type { Venv } from "../venv/index.js";
import { requireVllm } from "../venv/index.js";
import { BASELINE, type CacheName, cacheKind } from "./caches.js";
import type { MatrixConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { qualitySpec } from "./quality.js";
import { inRound, TIMED } from "./rounds.js";
import type { ServingPlan } from "./serving/index.js";
import { serverArguments } from "./serving/server-arguments.js";

/** The JSON document a worker is given (bench/kivi_bench/spec.py). */
export interface CellSpec {
  readonly cache: CacheName;
  readonly cache_dtype: string;
  readonly engine: Readonly<Record<string, unknown>>;
  readonly context: number;
  readonly suites: readonly string[];
  readonly throughput?: object;
  readonly perplexity?: object;
  readonly quality?: object;
  readonly lm_eval?: object;
  /** The baseline's answers for the suite quality: its cell writes them, the others read them. */
  readonly reference?: string;
  readonly vllm_args?: readonly string[];
  readonly log: string;
  readonly result: string;
}

export interface PlannedCell {
  readonly cache: CacheName;
  /** Counts from 0. */
  readonly round: number;
  readonly key: string;
  readonly optional: boolean;
  readonly spec: CellSpec;
  readonly specPath: string;
  readonly argv: readonly [string, ...string[]];
  /** The suite `serve`, which runs after the worker and its engine have ended. */
  readonly serving?: ServingPlan | undefined;
}

/** Keyword arguments of `vllm.LLM`, the same for every cell but for KIVI's own settings. */
function engineArguments(config: MatrixConfig, cache: CacheName): Record<string, unknown> {
  const settings = cacheKind(cache).kivi ? pluginSettings(config.kivi ?? {}) : {};
  return {
    model: config.model,
    dtype: config.dtype,
    seed: config.seed,
    max_model_len: config.maxModelLen,
    max_num_seqs: config.maxNumSeqs,
    max_num_batched_tokens: config.maxNumBatchedTokens,
    enforce_eager: config.enforceEager,
    tensor_parallel_size: config.tensorParallelSize,
    ...(config.kvMemoryBytes === undefined ? {} : { kv_cache_memory_bytes: config.kvMemoryBytes }),
    ...(config.gpuMemoryUtilization === undefined
      ? {}
      : { gpu_memory_utilization: config.gpuMemoryUtilization }),
    ...(config.loadFormat === undefined ? {} : { load_format: config.loadFormat }),
    ...(Object.keys(settings).length === 0 ? {} : { additional_config: { kivi: settings } }),
  };
}

/** What two runs must share for one to stand for the other. */
function cellKey(
  spec: Omit<CellSpec, "log" | "result" | "reference"> & {
    readonly serving?: object;
    readonly users?: object;
    readonly rounds?: number;
    readonly round?: number;
  },
  environment: Environment,
  model: string,
  text: string,
): string {
  const facts = { spec, environment, model, text };
  return createHash("sha256").update(JSON.stringify(facts)).digest("hex").slice(0, 32);
}

interface About {
  environment: Environment;
  model: string;
  /** False for a model without one, which vLLM must be told. */
  tokenizer: boolean;
  text: string;
  /** Folder of the scripts that measure. */
  bench: string;
  folder: string;
  /** Opened where a server is to be started. */
  venv?: Venv | undefined;
}

/** The cells in the order they run: the baseline first, each cache once a round. */
export function planCells(config: MatrixConfig, about: About): PlannedCell[] {
  const caches = [...new Set([BASELINE, ...config.caches])];
  return Array.from({ length: config.rounds }, (_, round) => {
    const timed = config.suites.filter((suite) => round === 0 || TIMED.includes(suite));
    return inRound(caches, round).map((cache) => planCell({ ...config, suites: timed }, cache, round, about));
  }).flat();
}

function planCell(config: MatrixConfig, cache: CacheName, round: number, about: About): PlannedCell {
  const what = {
    cache,
    cache_dtype: cacheKind(cache).dtype,
    engine: {
      ...engineArguments(config, cache),
      ...(about.tokenizer ? {} : { skip_tokenizer_init: true }),
    },
    context: config.context,
    ...(config.vllmArgs === undefined ? {} : { vllm_args: config.vllmArgs }),
    // The worker serves nothing: alone, it says which machine this is and whether vLLM has the cache.
    suites: config.suites.filter((suite) => suite !== "serve" && suite !== "concurrency"),
    ...(config.suites.includes("throughput")
      ? { throughput: { shapes: config.shapes, repeats: config.repeats, seed: config.seed } }
      : {}),
    ...(config.suites.includes("perplexity")
      ? { perplexity: { text: config.text, window: config.windowTokens, max_windows: config.maxWindows } }
      : {}),
    ...(config.suites.includes("quality")
      ? { quality: qualitySpec(config.quality, config.text, config.seed) }
      : {}),
    ...(config.suites.includes("lm-eval")
      ? { lm_eval: { ...config.lmEval, window: config.windowTokens } }
      : {}),
  };
  const serves = {
    ...(config.suites.includes("serve") ? { serving: config.serving } : {}),
    ...(config.suites.includes("concurrency") ? { users: config.users } : {}),
  };
  const name = round === 0 ? cache : `${cache}.${round + 1}`;
  const specPath = join(about.folder, `${name}.spec.json`);
  const rounds = config.rounds === 1 ? {} : { rounds: config.rounds, round };
  return {
    cache,
    round,
    key: cellKey({ ...what, ...serves, ...rounds }, about.environment, about.model, about.text),
    optional: config.optional.includes(cache),
    spec: {
      ...what,
      ...(config.suites.includes("quality") ? { reference: join(about.folder, "reference.npz") } : {}),
      log: join(about.folder, `${name}.log`),
      result: join(about.folder, `${name}.result.json`),
    },
    specPath,
    argv: [config.python, join(about.bench, "cell.py"), specPath],
    serving:
      about.venv && Object.keys(serves).length > 0
        ? servingPlan(config, cache, about.venv, about, name)
        : undefined,
  };
}

/** The server gets what the worker's engine gets. */
function servingPlan(
  config: MatrixConfig,
  cache: CacheName,
  venv: Venv,
  { bench, folder }: { bench: string; folder: string },
  name: string,
): ServingPlan {
  const { dtype, kivi } = cacheKind(cache);
  return {
    venv,
    vllm: requireVllm(venv),
    server: {
      ...(kivi ? config.kivi : {}),
      model: config.model,
      cacheDtype: dtype,
      vllmArgs: [...serverArguments(engineArguments(config, cache)), ...(config.vllmArgs ?? [])],
    },
    host: "127.0.0.1",
    load: config.suites.includes("serve") ? config.serving : undefined,
    users: config.suites.includes("concurrency") ? config.users : undefined,
    seed: config.seed,
    script: join(bench, "client.py"),
    launcher: join(bench, "server.py"),
    folder,
    name,
  };
}
