import { mkdir, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { writeJsonAtomic } from "../../shared/atomic.js";
import type { Context } from "../../shared/context.js";
import { messageOf, systemCode } from "../../shared/errors.js";
import type { Finished } from "../../shared/process.js";
import type { PlannedCell } from "./matrix.js";
import { camelKeys } from "./names.js";
import { type Cell, type WorkerResult, workerResultSchema } from "./result.js";
import { unwritable } from "./result-file.js";
import { NotServing, type Served, type ServingPlan, serveAndMeasure, serverLog } from "./serving/index.js";

/** One line of a worker's standard output. */
export interface WorkerEvent {
  readonly phase: string;
  readonly detail: string;
  readonly step?: number | undefined;
  readonly steps?: number | undefined;
}

export interface CellOptions {
  timeoutMs?: number | undefined;
  onEvent(event: WorkerEvent): void;
}

function parseEvent(line: string): WorkerEvent | undefined {
  try {
    const event = JSON.parse(line) as Record<string, unknown>;
    if (event.event !== "phase" || typeof event.phase !== "string") return undefined;
    return {
      phase: event.phase,
      detail: String(event.detail ?? ""),
      step: typeof event.step === "number" ? event.step : undefined,
      steps: typeof event.steps === "number" ? event.steps : undefined,
    };
  } catch {
    return undefined;
  }
}

const WORKER_ENVIRONMENT = {
  // KIVI's report is an INFO line of the log, whatever level the user has set.
  VLLM_LOGGING_LEVEL: "INFO",
  VLLM_NO_USAGE_STATS: "1",
  NO_COLOR: "1",
  // An engine imports vLLM three times: without compiled files each cell starts half a minute later.
  PYTHONDONTWRITEBYTECODE: undefined,
  // Otherwise the server asks its load client for the key of the user's own one.
  VLLM_API_KEY: undefined,
};

/** Runs one cell in a fresh process and engine. Whatever happens in it becomes the cell's result; only an abort rejects. */
export async function runCell(ctx: Context, planned: PlannedCell, options: CellOptions): Promise<Cell> {
  try {
    await mkdir(dirname(planned.specPath), { recursive: true });
    // What an earlier cell left here would be read as this one's.
    for (const stale of [planned.spec.result, planned.spec.log]) await rm(stale, { force: true });
    await writeJsonAtomic(planned.specPath, planned.spec);
  } catch (error) {
    throw unwritable(planned.specPath, error);
  }
  const startedAt = ctx.clock.now();
  const finished = await ctx.runner.run(
    { argv: planned.argv },
    {
      signal: ctx.signal,
      env: WORKER_ENVIRONMENT,
      timeoutMs: options.timeoutMs,
      graceMs: 15_000,
      onLine: (stream, line) => {
        const event = stream === "stdout" ? parseEvent(line) : undefined;
        if (event !== undefined) options.onEvent(event);
      },
    },
  );
  const measured = await withServing(
    ctx,
    planned,
    await outcome(planned, finished, options.timeoutMs),
    options,
  );
  return {
    key: planned.key,
    cache: planned.cache,
    cacheDtype: planned.spec.cache_dtype,
    optional: planned.optional,
    startedAt: new Date(startedAt).toISOString(),
    seconds: (ctx.clock.now() - startedAt) / 1000,
    log: planned.spec.log,
    ...measured,
  };
}

/** Adds the figures of the suites that need a server, or why there are none, to what the worker measured. */
async function withServing(
  ctx: Context,
  { serving, spec }: PlannedCell,
  worker: WorkerResult,
  { timeoutMs, onEvent }: CellOptions,
): Promise<WorkerResult & { readonly log?: string }> {
  if (serving === undefined || worker.status !== "ok") return worker;
  try {
    const { startSeconds, serve, concurrency, cache, report } = await serveAndMeasure(ctx, serving, {
      env: WORKER_ENVIRONMENT,
      timeoutMs,
      onProgress: (detail, step, steps) => onEvent({ phase: "serve", detail, step, steps }),
    });
    return {
      startSeconds,
      engine: servedEngine(spec.engine, cache, report),
      kivi: report && { ...report },
      ...worker,
      ...(serve && { serve }),
      ...(concurrency && { concurrency }),
    };
  } catch (error) {
    ctx.signal.throwIfAborted();
    const log = serverLog(serving);
    const status = error instanceof NotServing ? await refusal(ctx, serving, log) : {};
    return { ...worker, status: "failed", reason: messageOf(error), ...status, log };
  }
}

/** The worker's engine facts, for a cell whose only engine is the server's. */
function servedEngine(
  asked: Readonly<Record<string, unknown>>,
  { blockSize, prefixCaching }: Served["cache"],
  report: Served["report"],
): WorkerResult["engine"] {
  return {
    blockSize: blockSize ?? 0,
    maxModelLen: Number(asked.max_model_len),
    maxNumSeqs: report?.stagingSlots ?? Number(asked.max_num_seqs),
    maxNumBatchedTokens: Number(asked.max_num_batched_tokens),
    enforceEager: asked.enforce_eager === true,
    dtype: String(asked.dtype),
    prefixCaching,
    tensorParallelSize: Number(asked.tensor_parallel_size),
  };
}

/** Status and reason of a server that this installation cannot run, told from its log as for a worker's engine. */
async function refusal(
  ctx: Context,
  { venv, script }: ServingPlan,
  log: string,
): Promise<Partial<Pick<WorkerResult, "status" | "reason">>> {
  const reader = join(dirname(script), "kivi_bench", "refusal.py");
  const { exitCode, stdout } = await ctx.runner.run(
    { argv: [venv.python, reader, log], readOnly: true },
    { signal: ctx.signal, timeoutMs: 60_000 },
  );
  if (exitCode !== 0) return {};
  const told = JSON.parse(stdout) as { status: WorkerResult["status"]; reason: string };
  return told.status === "unsupported" ? told : {};
}

async function outcome(
  planned: PlannedCell,
  finished: Finished,
  timeoutMs: number | undefined,
): Promise<WorkerResult> {
  if (finished.timedOut) {
    return {
      status: "failed",
      reason: `it did not finish in ${Math.round((timeoutMs ?? 0) / 1000)} s and was ended`,
    };
  }
  let text: string;
  try {
    text = await readFile(planned.spec.result, "utf8");
  } catch (error) {
    const what = systemCode(error) === "ENOENT" ? "the worker wrote no result" : messageOf(error);
    const killed = finished.signal === "SIGKILL" ? " (out of memory?)" : "";
    const how = finished.signal === undefined ? `code ${finished.exitCode}` : `${finished.signal}${killed}`;
    const last = finished.tail.filter((line) => parseEvent(line) === undefined).at(-1);
    return {
      status: "failed",
      reason: `${what} and ended with ${how}${last === undefined ? "" : `: ${last}`}`,
    };
  }
  try {
    return workerResultSchema.parse(camelKeys(JSON.parse(text)));
  } catch (error) {
    return { status: "failed", reason: `the worker's result is not of the known form: ${messageOf(error)}` };
  }
}
