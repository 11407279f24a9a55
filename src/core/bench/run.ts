import { basename, join } from "node:path";
import type { Context } from "../../shared/context.js";
import { childError, environmentError } from "../../shared/errors.js";
import { type Action, execute, type Plan } from "../../shared/plan.js";
import { seconds } from "../../shared/progress.js";
import { openVenv } from "../venv/index.js";
import { BASELINE } from "./caches.js";
import { runCell, type WorkerEvent } from "./cell.js";
import type { MatrixConfig } from "./config.js";
import { modelFingerprint, readEnvironment } from "./environment.js";
import { remaining } from "./eta.js";
import { findTokenizer, textHash } from "./inputs.js";
import { requireKnownCaches } from "./known-caches.js";
import { LM_EVAL } from "./lm-eval.js";
import { type PlannedCell, planCells } from "./matrix.js";
import { shareReference } from "./reference.js";
import { type BenchResult, type Cell, RESULT_KIND, SCHEMA_VERSION } from "./result.js";
import { checkWritable, readResult, writeResult } from "./result-file.js";
import { mergeRound } from "./rounds.js";
import { rateName, type ServingPlan } from "./serving/index.js";

/** Where a running matrix is; `cell` counts from 1. */
export interface MatrixProgress {
  readonly cell: number;
  readonly cells: number;
  readonly cache: string;
  readonly phase: string;
  readonly detail: string;
  readonly elapsedMs: number;
  /** Undefined until a first cell has been measured. */
  readonly etaMs?: number | undefined;
}

export type OnProgress = (progress: MatrixProgress) => void;

export interface PreparedMatrix {
  /** What the result will say of the run, known before its first cell. */
  readonly subject: Pick<BenchResult, "model" | "modelFingerprint" | "config">;
  /** What `--dry-run` prints is what `run` executes. */
  readonly plan: Plan;
  run(): Promise<BenchResult>;
}

/** A cell that hangs is ended at this multiple of what the baseline took, and not before the floor. */
const TIMEOUT_FACTOR = 8;
const TIMEOUT_FLOOR_MS = 20 * 60_000;

/** Runs every cell of the matrix, the baseline first, saving the result after each one. */
export async function runMatrix(
  ctx: Context,
  config: MatrixConfig,
  onProgress?: OnProgress,
): Promise<BenchResult> {
  return (await prepareMatrix(ctx, config, onProgress)).run();
}

/** Checks what can be checked without an engine and lays out the cells. */
export async function prepareMatrix(
  ctx: Context,
  config: MatrixConfig,
  onProgress: OnProgress = () => undefined,
): Promise<PreparedMatrix> {
  const usesLmEval = config.suites.includes("lm-eval");
  const environment = await readEnvironment(ctx, config.python, config.device, usesLmEval ? [LM_EVAL] : []);
  if (usesLmEval && environment.versions[LM_EVAL] === null) {
    throw environmentError(
      "lm-eval-missing",
      `The environment of ${config.python} has no ${LM_EVAL}, which the suite lm-eval runs.`,
      `Install it: ${config.python} -m pip install ${LM_EVAL} (or: uv pip install --python ${config.python} ${LM_EVAL}), or measure perplexity without it: --suites perplexity.`,
    );
  }
  await requireKnownCaches(ctx, config);
  const stamp = new Date(ctx.clock.now()).toISOString().replace(/[-:]|\.\d+Z$/g, "");
  const fingerprint = await modelFingerprint(config.model);
  const tokenizer = await findTokenizer(config);
  const planned = planCells(config, {
    environment,
    model: fingerprint,
    tokenizer,
    text: await textHash(config),
    bench: ctx.paths.bench,
    folder: join(ctx.paths.logDir, `bench-${stamp}-${process.pid}-${basename(config.output, ".json")}`),
    venv: config.suites.some((suite) => suite === "serve" || suite === "concurrency")
      ? await openVenv(ctx, join(config.python, "..", ".."))
      : undefined,
  });
  const earlier = await readResult(config.output);
  const found = new Map(
    (config.resume ? (earlier?.cells ?? []) : [])
      .filter((cell) => cell.status === "ok")
      .flatMap((cell) => [cell.key, ...(cell.rounds ?? []).map(({ key }) => key)].map((key) => [key, cell])),
  );
  const { cells, kept } = await shareReference(planned, found);
  return new Matrix(ctx, config, fingerprint, cells, kept, onProgress);
}

/** What is asked of a cell's server. */
function loads({ load, users }: ServingPlan): string {
  return [
    ...(load === undefined ? [] : [`at ${load.rates.map(rateName).join(", ")} requests/s`]),
    ...(users === undefined ? [] : [`for up to ${users.most} users`]),
  ].join(", then ");
}

class Matrix implements PreparedMatrix {
  readonly plan: Plan;
  readonly #result: BenchResult;
  readonly #startedMs: number;
  readonly #durations: number[] = [];
  readonly #measured = new Map<string, Cell>();

  constructor(
    private readonly ctx: Context,
    private readonly config: MatrixConfig,
    fingerprint: string,
    private readonly cells: readonly PlannedCell[],
    private readonly kept: ReadonlyMap<string, Cell>,
    private readonly onProgress: OnProgress,
  ) {
    this.#startedMs = ctx.clock.now();
    const now = new Date(this.#startedMs).toISOString();
    this.#result = {
      kind: RESULT_KIND,
      schemaVersion: SCHEMA_VERSION,
      tool: { name: "kivi", version: ctx.version },
      createdAt: now,
      updatedAt: now,
      model: config.model,
      modelFingerprint: fingerprint,
      planned: [...new Set(cells.map((cell) => cell.cache))],
      suites: [...config.suites],
      argv: ctx.redact.words(ctx.argv),
      config: { ...config },
      cells: [],
      complete: false,
    };
    this.plan = {
      title: `Measure ${config.model} with ${this.#result.planned.length} caches into ${config.output}`,
      actions: cells.map((cell, index) => this.#action(cell, index)),
    };
  }

  get subject(): PreparedMatrix["subject"] {
    return this.#result;
  }

  async run(): Promise<BenchResult> {
    try {
      await checkWritable(this.config.output);
      await execute(this.ctx, this.plan);
      await this.#save(true);
      return this.#result;
    } catch (error) {
      if (this.ctx.signal.aborted && this.#measured.size > 0) {
        this.ctx.out.warn(
          `${this.#measured.size} finished cells are kept in ${this.config.output}; go on with --resume.`,
        );
      }
      throw error;
    }
  }

  #action(cell: PlannedCell, index: number): Action {
    const kept = this.kept.get(cell.key);
    // From the start, so that an interrupted run loses nothing that an earlier one measured.
    if (kept !== undefined && cell.round === 0)
      this.#measured.set(cell.cache, { ...kept, optional: cell.optional });
    const served = cell.serving === undefined ? "" : `, then a server ${loads(cell.serving)}`;
    const again = cell.round === 0 ? "" : `, round ${cell.round + 1}`;
    const title = `Cell ${index + 1} of ${this.cells.length}: ${cell.cache}${again}${served}`;
    if (kept !== undefined) {
      return {
        title: `${title} (kept from ${this.config.output})`,
        path: this.config.output,
        readOnly: true,
        run: async () => undefined,
      };
    }
    return {
      title,
      argv: cell.argv,
      path: this.config.output,
      readOnly: false,
      run: async (_ctx, step) => {
        const earlier = cell.round === 0 ? undefined : this.#measured.get(cell.cache);
        // What cannot run, or broke, was told in the round in which it did.
        if (earlier !== undefined && earlier.status !== "ok") return;
        const cellStartedMs = this.ctx.clock.now();
        const found = await runCell(this.ctx, cell, {
          timeoutMs: this.#timeoutMs(),
          onEvent: (event) => step.update(this.#report(cell, index, cellStartedMs, event)),
        });
        this.#durations.push(this.ctx.clock.now() - cellStartedMs);
        const measured = earlier === undefined ? found : mergeRound(earlier, found, cell.round);
        await this.#keep(measured);
        this.#judge(measured);
      },
    };
  }

  #timeoutMs(): number | undefined {
    const [baseline] = this.#durations;
    return baseline === undefined ? undefined : Math.max(TIMEOUT_FLOOR_MS, baseline * TIMEOUT_FACTOR);
  }

  #report(cell: PlannedCell, index: number, cellStartedMs: number, event: WorkerEvent): string {
    const now = this.ctx.clock.now();
    const left = this.cells.slice(index + 1).filter((later) => !this.kept.has(later.key)).length;
    const etaMs = remaining(this.#durations, { left, currentElapsedMs: now - cellStartedMs });
    const { phase, detail } = event;
    this.onProgress({
      cell: index + 1,
      cells: this.cells.length,
      cache: cell.cache,
      phase,
      detail,
      elapsedMs: now - this.#startedMs,
      etaMs,
    });
    const where = event.steps === undefined ? detail : `${phase} ${event.step} of ${event.steps} (${detail})`;
    // A cell that outlasts the earlier ones has no honest estimate left.
    return etaMs === undefined || etaMs < 1000 ? where : `${where}, about ${seconds(etaMs)} left`;
  }

  /** Puts the cell at its place in the plan, whatever came before it. */
  async #keep(cell: Cell): Promise<void> {
    this.#measured.set(cell.cache, cell);
    await this.#save(false);
  }

  async #save(complete: boolean): Promise<void> {
    this.#result.cells = this.#result.planned.flatMap((cache) => this.#measured.get(cache) ?? []);
    this.#result.complete = complete;
    this.#result.updatedAt = new Date(this.ctx.clock.now()).toISOString();
    await writeResult(this.config.output, this.ctx.redact.document(this.#result));
  }

  /** Says what went wrong at once; without the baseline there is nothing to compare the rest with. */
  #judge(cell: Cell): void {
    if (cell.status === "ok") return;
    const message = `The cell ${cell.cache} ${cell.status === "failed" ? "failed" : "is not supported here"}: ${cell.reason}`;
    if (cell.cache === BASELINE) {
      throw childError("bench-baseline-failed", message, `See ${cell.log}`, { details: { log: cell.log } });
    }
    this.ctx.out.warn(`${message}\n  log: ${cell.log}`);
  }
}
