import { readFileSync } from "node:fs";
import { type BenchResult, benchResultSchema } from "../../src/core/bench/result.js";
import type { Clock, Context } from "../../src/shared/context.js";
import { Output } from "../../src/shared/output.js";
import type { Command, Finished, ProcessRunner, RunOptions } from "../../src/shared/process.js";
import { createProgress } from "../../src/shared/progress.js";
import { Redactor } from "../../src/shared/redact.js";

export function finished(command: Command, part: Partial<Finished> = {}): Finished {
  const base = {
    command,
    exitCode: 0,
    signal: undefined,
    timedOut: false,
    durationMs: 1,
    stdout: "",
    stderr: "",
    tail: [],
  };
  return { ...base, ...part };
}

/** A clock that moves only when a test moves it. */
export class TestClock implements Clock {
  ms = Date.UTC(2026, 0, 2, 3, 4, 5);
  now(): number {
    return this.ms;
  }
  async sleep(): Promise<void> {}
}

export interface FakeWorld {
  context: Context;
  stderr(): string;
  clock: TestClock;
  commands: Command[];
  abort: AbortController;
}

/** A context whose processes are answered by `answer`; everything else is real. */
export function fakeWorld(
  home: string,
  answer: (
    command: Command,
    options: RunOptions,
    clock: TestClock,
  ) => Promise<Partial<Finished>> | Partial<Finished>,
): FakeWorld {
  const clock = new TestClock();
  const commands: Command[] = [];
  const abort = new AbortController();
  let stderr = "";
  const runner: ProcessRunner = {
    run: async (command, options = {}) => {
      commands.push(command);
      const answered = await answer(command, options, clock);
      options.signal?.throwIfAborted();
      return finished(command, answered);
    },
    start: () => {
      throw new Error("bench starts nothing long-lived");
    },
  };
  const out = new Output({
    stdout: { write: () => true },
    stderr: { write: (text) => (stderr += text) },
    env: {},
    json: false,
    quiet: false,
    verbose: false,
  });
  const context: Context = {
    runner,
    out,
    redact: new Redactor({}, []),
    progress: createProgress(out),
    paths: {
      cacheDir: home,
      logDir: `${home}/logs`,
      root: home,
      templates: `${home}/templates`,
      pythonPlugin: `${home}/python-plugin`,
      tritonKernels: `${home}/triton-kernels`,
      bench: "/kivi/bench",
    },
    signal: abort.signal,
    clock,
    env: {},
    cwd: home,
    argv: ["bench", "model"],
    version: "0.1.0",
  };
  return { context, stderr: () => stderr, clock, commands, abort };
}

function recorded(name: string): Record<string, unknown> {
  return JSON.parse(readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), "utf8")) as Record<
    string,
    unknown
  >;
}

/** What a real worker wrote for SmolLM2-135M on vLLM's CPU build, cut to two windows. */
export function workerResult(cache: string): Record<string, unknown> {
  return recorded(`${cache}.result`);
}

/** A saved result of those cells, complete unless `more` says otherwise. */
export function savedResult(cells: readonly object[], more: object = {}): BenchResult {
  return benchResultSchema.parse({
    kind: "kivi-bench",
    schemaVersion: 1,
    tool: { name: "kivi", version: "0.1.0" },
    createdAt: "2026-01-02T03:04:05.000Z",
    updatedAt: "2026-01-02T03:04:05.000Z",
    model: "smollm2",
    planned: ["bf16", "fp8", "k4v4"],
    suites: ["capacity", "throughput", "perplexity"],
    config: { kvMemoryBytes: 2 ** 30 },
    complete: true,
    cells,
    ...more,
  });
}

/** What kivi saved of a real server under vLLM's client, at 1 request/s and all at once. */
export function serveOf(cache: "bf16" | "k4v4"): Record<string, unknown> {
  return recorded(`${cache}.serve`);
}

/** A file as it was recorded. */
export function recordedText(name: string): string {
  return readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8");
}

/** What a real worker wrote under `quality` for the same model, in a run of its own. */
export function qualityOf(cache: "bf16" | "k4v4"): Record<string, unknown> {
  return recorded(`${cache}.quality`);
}
