import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { type BenchResult, completeConfig, runMatrix } from "../bench/index.js";
import { cacheDtype } from "../plugin/presets.js";
import { type CacheReport, defaultLogFile, freePort, type Server, startServer } from "../server/index.js";
import { requireVllm } from "../venv/index.js";
import { type Answer, ask } from "./ask.js";
import { checkPlatform } from "./checks.js";
import { compileBytecode, type DemoEnvironment, prepareEnvironment, preparePlugin } from "./environment.js";
import { type FetchedModel, fetchModel, MODEL_NAME } from "./model.js";
import { messagesFor } from "./question.js";

export interface DemoOptions {
  readonly question?: string | undefined;
  readonly python?: string | undefined;
  readonly matrix: boolean;
  /** Measure anew instead of keeping what an earlier run measured. */
  readonly fresh: boolean;
}

/** Shows the parts of the demo while it runs. */
export interface DemoView {
  serving(server: Server): void;
  asking(): void;
  text(piece: string): void;
  answered(answer: Answer, cache: CacheReport): void;
}

export interface DemoResult {
  readonly environment: DemoEnvironment;
  readonly plugin: { readonly reused: boolean };
  readonly model: FetchedModel;
  readonly cache: CacheReport;
  readonly serverLog: string;
  readonly answer: Answer;
  readonly matrix: BenchResult | undefined;
  readonly totalMs: number;
}

const HOST = "127.0.0.1";
const START_LIMIT_MS = 600_000;
/**
 * Small on purpose. vLLM's start computes one full batch of `--max-num-batched-tokens`, the largest part of a start
 * on two cores after the imports; and eager mode needs no C++ compiler.
 */
const SERVER_ARGS = [
  "--served-model-name",
  MODEL_NAME,
  "--enforce-eager",
  "--max-model-len",
  "2048",
  "--max-num-seqs",
  "8",
  "--max-num-batched-tokens",
  "256",
  "--kv-cache-memory-bytes",
  String(2 ** 28),
] as const;

async function serveAndAsk(
  context: Context,
  environment: DemoEnvironment,
  model: FetchedModel,
  options: DemoOptions,
  view: DemoView,
): Promise<{ cache: CacheReport; serverLog: string; answer: Answer }> {
  const { venv } = environment;
  const settings = {
    model: model.path,
    host: HOST,
    port: await freePort(HOST),
    cacheDtype: cacheDtype("k4v4"),
    vllmArgs: SERVER_ARGS,
  } as const;
  const request = {
    venv,
    vllm: requireVllm(venv),
    settings,
    logFile: defaultLogFile(context),
    timeoutMs: START_LIMIT_MS,
    // A key of the user's own servers is not asked for here.
    env: { VLLM_API_KEY: undefined },
  };
  const server = await context.progress.step("Start vLLM's server with a k4v4 cache", (step) =>
    startServer(context, request, step),
  );
  try {
    view.serving(server);
    const messages = messagesFor(options.question);
    view.asking();
    const answer = await ask(
      { baseUrl: `${server.url}/v1`, model: MODEL_NAME, messages, maxTokens: 96 },
      { signal: context.signal, onText: (piece) => view.text(piece) },
    );
    view.answered(answer, server.report);
    return { cache: server.report, serverLog: server.logFile, answer };
  } finally {
    await context.progress.step("Stop the server", () => server.stop());
  }
}

/** Three caches, little work in each: an engine's start is most of a cell here. `kivi bench` measures all of them. */
async function measure(
  context: Context,
  environment: DemoEnvironment,
  model: FetchedModel,
  fresh: boolean,
): Promise<BenchResult> {
  const { paths } = context;
  return runMatrix(
    context,
    completeConfig({
      python: environment.venv.python,
      device: "cpu",
      model: model.path,
      output: join(paths.cacheDir, "demo", "bench.json"),
      text: join(paths.bench, "data", "opticks.txt"),
      caches: ["bf16", "fp8", "k4v4"],
      optional: ["fp8"],
      shapes: [{ batch: 4, context: 512, new: 32 }],
      repeats: 2,
      maxWindows: 2,
      maxNumSeqs: 8,
      maxNumBatchedTokens: 256,
      resume: !fresh,
    }),
  );
}

/** From nothing to an answer out of a KIVI cache and a table of what each cache holds, costs and loses. */
export async function runDemo(context: Context, options: DemoOptions, view: DemoView): Promise<DemoResult> {
  checkPlatform(process.platform, process.arch);
  const startedAt = context.clock.now();
  const environment = await prepareEnvironment(context, { python: options.python });
  const model = await context.progress.step(`Get the model ${MODEL_NAME}`, async (step) => {
    const fetching = new AbortController();
    const compiled = compileBytecode(
      context,
      environment,
      AbortSignal.any([context.signal, fetching.signal]),
    );
    try {
      const fetched = await fetchModel(context, environment.venv, step);
      await compiled;
      return fetched;
    } finally {
      fetching.abort();
      await compiled;
    }
  });
  const plugin = await preparePlugin(context, environment);
  const served = await serveAndAsk(context, environment, model, options, view);
  const matrix = options.matrix ? await measure(context, environment, model, options.fresh) : undefined;
  return { environment, plugin, model, ...served, matrix, totalMs: context.clock.now() - startedAt };
}
