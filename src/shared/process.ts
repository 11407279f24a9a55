import { createWriteStream, mkdirSync, type WriteStream } from "node:fs";
import { dirname } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { execa, type Options, type ResultPromise } from "execa";
import { childError, environmentError, Interruption, type KiviError } from "./errors.js";
import { LineSplitter, Tail } from "./lines.js";
import { forgetGroup, groupMembers, signalGroup, stopGroup, trackGroup } from "./process-group.js";
import { Redactor } from "./redact.js";

/** Program and arguments; never a shell string. */
export interface Command {
  readonly argv: readonly [string, ...string[]];
  /** True when the command changes nothing outside its own process. */
  readonly readOnly?: boolean;
}

export type LineSink = (stream: "stdout" | "stderr", line: string) => void;

export interface StartOptions {
  cwd?: string | undefined;
  /** Added to the environment of this process (or all of it, see `extendEnv`). Undefined removes a name. */
  env?: Record<string, string | undefined> | undefined;
  extendEnv?: boolean | undefined;
  onLine?: LineSink | undefined;
  /** Both streams are appended here, colours removed. */
  logFile?: string | undefined;
  /** Called once where the log cannot be written; the child goes on without it. */
  onLogError?: ((error: Error) => void) | undefined;
}

export interface RunOptions extends StartOptions {
  input?: string | undefined;
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
  /** How long a cancelled or late child has between TERM and KILL. */
  graceMs?: number | undefined;
}

export interface Finished {
  readonly command: Command;
  readonly exitCode: number | undefined;
  readonly signal: string | undefined;
  readonly timedOut: boolean;
  readonly durationMs: number;
  /** Complete for `run`; empty for `start`, whose output may be endless. */
  readonly stdout: string;
  readonly stderr: string;
  /** The last lines of both streams, in order of arrival. */
  readonly tail: string[];
}

export interface StopReport {
  /** TERM was not enough. */
  killed: boolean;
  /** Process ids of the group that survived KILL; empty is the normal case. */
  left: number[];
}

export interface RunningProcess {
  readonly pid: number;
  readonly exited: Promise<Finished>;
  isAlive(): boolean;
  tail(): string[];
  /** Idempotent; resolves after the exit, with what is left of the group. */
  stop(options?: { graceMs?: number }): Promise<StopReport>;
}

export interface ProcessRunner {
  /** Resolves with the exit whatever its code; rejects when the program cannot start or the run is cancelled. */
  run(command: Command, options?: RunOptions): Promise<Finished>;
  /** A long-lived child that leads its own process group. Rejects never; spawn errors reject `exited`. */
  start(command: Command, options?: StartOptions): RunningProcess;
}

const TAIL_LINES = 200;
const MAX_CAPTURE = 32 * 2 ** 20;

/** A command line for people: quoted where a shell would need it. */
export function showCommand(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`))
    .join(" ");
}

function spawnError(command: Command, cause: unknown): KiviError {
  return environmentError(
    "command-not-started",
    `Could not start ${command.argv[0]}: ${cause instanceof Error ? cause.message.split("\n")[0] : String(cause)}`,
    `Check that ${command.argv[0]} exists and is executable.`,
    { cause },
  );
}

function openLog({ logFile: path, onLogError }: StartOptions): WriteStream | undefined {
  if (path === undefined) return undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (error) {
    onLogError?.(error as Error);
    return undefined;
  }
  const stream = createWriteStream(path, { flags: "a" });
  // A full disk must not bring the child down; the tail in memory still explains a failure.
  stream.once("error", (error) => onLogError?.(error));
  stream.on("error", () => stream.destroy());
  return stream;
}

interface Child {
  process: RunningProcess;
  capture: { stdout: string; stderr: string; overflow: boolean };
}

function launch(
  command: Command,
  options: StartOptions & { input?: string | undefined },
  keep: boolean,
  redact: Redactor,
): Child {
  const [file, ...args] = command.argv;
  const startedAt = performance.now();
  const tail = new Tail(TAIL_LINES);
  const capture = { stdout: "", stderr: "", overflow: false };
  const log = openLog(options);
  const settings = {
    buffer: false,
    reject: false,
    detached: true,
    cleanup: false,
    extendEnv: options.extendEnv ?? true,
    ...(options.input === undefined ? { stdin: "ignore" } : { input: options.input }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env as Record<string, string> }),
  } satisfies Options;
  const child = execa(file, args, settings) as unknown as ResultPromise<{ buffer: false; reject: false }>;
  const groupId = child.pid;
  if (groupId !== undefined) trackGroup(groupId);

  for (const name of ["stdout", "stderr"] as const) {
    const splitter = new LineSplitter((raw) => {
      const line = redact.text(raw);
      tail.push(line);
      log?.write(`${stripVTControlCharacters(line)}\n`);
      options.onLine?.(name, line);
    });
    const stream = child[name];
    const decoder = new TextDecoder();
    stream?.on("data", (chunk: Buffer) => {
      if (keep) {
        if (capture[name].length < MAX_CAPTURE) capture[name] += decoder.decode(chunk, { stream: true });
        else capture.overflow = true;
      }
      splitter.push(chunk);
    });
    stream?.on("end", () => splitter.end());
  }

  let alive = groupId !== undefined;
  const exited = child.then((result): Finished => {
    alive = false;
    log?.end();
    if (groupId === undefined) throw spawnError(command, result instanceof Error ? result.cause : "unknown");
    forgetGroup(groupId);
    return {
      command,
      exitCode: result.exitCode,
      signal: result.signal,
      timedOut: false,
      durationMs: performance.now() - startedAt,
      stdout: capture.stdout,
      stderr: capture.stderr,
      tail: tail.lines,
    };
  });
  exited.catch(() => undefined);

  let stopping: Promise<StopReport> | undefined;
  const stop = async (graceMs: number): Promise<StopReport> => {
    if (groupId === undefined) return { killed: false, left: [] };
    const report = await stopGroup(groupId, graceMs);
    // A grandchild outside the group may hold the pipes open: do not wait for it for ever.
    child.stdout?.destroy();
    child.stderr?.destroy();
    await exited.catch(() => undefined);
    return { ...report, left: groupMembers(groupId) };
  };
  const running: RunningProcess = {
    pid: groupId ?? -1,
    exited,
    isAlive: () => alive,
    tail: () => tail.lines,
    stop: ({ graceMs = 10_000 } = {}) => {
      stopping ??= stop(graceMs);
      return stopping;
    },
  };
  return { process: running, capture };
}

async function run(redact: Redactor, command: Command, options: RunOptions): Promise<Finished> {
  options.signal?.throwIfAborted();
  const { process: child, capture } = launch(command, options, true, redact);
  let timedOut = false;
  const graceMs = options.graceMs ?? 5_000;
  const onAbort = (): void => void child.stop({ graceMs });
  options.signal?.addEventListener("abort", onAbort, { once: true });
  const timer =
    options.timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true;
          void child.stop({ graceMs });
        }, options.timeoutMs);
  try {
    const finished = await child.exited;
    if (options.signal?.aborted) {
      await child.stop({ graceMs });
      throw options.signal.reason;
    }
    if (capture.overflow) {
      throw childError("output-too-large", `${command.argv[0]} printed more than ${MAX_CAPTURE} bytes.`);
    }
    return { ...finished, timedOut };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onAbort);
    // What a finished command left in its group (a stray daemon) is not ours to keep.
    if (child.pid > 0 && groupMembers(child.pid).length > 0) signalGroup(child.pid, "SIGKILL");
  }
}

/** Real processes. What they print is read as it is, but for secrets in lines that are shown, logged or kept as tail. */
export function createRunner(redact = new Redactor({}, [])): ProcessRunner {
  return {
    run: (command, options = {}) => run(redact, command, options),
    start: (command, options = {}) => launch(command, options, false, redact).process,
  };
}

/** Runs a command that must succeed; a failure becomes one error with the last lines of its output. */
export async function runChecked(
  runner: ProcessRunner,
  command: Command,
  options: RunOptions & { what: string; code?: string; hint?: string },
): Promise<Finished> {
  const finished = await runner.run(command, options);
  if (finished.exitCode === 0) return finished;
  const end = finished.timedOut
    ? `did not finish in ${options.timeoutMs} ms`
    : finished.signal === undefined
      ? `exited with code ${finished.exitCode}`
      : `was ended by ${finished.signal}`;
  throw childError(
    options.code ?? "command-failed",
    `${options.what} failed: ${showCommand(command.argv)} ${end}.\n${finished.tail.slice(-15).join("\n")}`.trimEnd(),
    options.hint,
    {
      details: {
        argv: command.argv,
        exitCode: finished.exitCode,
        signal: finished.signal,
        tail: finished.tail,
      },
    },
  );
}

export function isInterruption(error: unknown): error is Interruption {
  return error instanceof Interruption;
}
