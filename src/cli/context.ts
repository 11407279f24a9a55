import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Context } from "../shared/context.js";
import { Output, type TextStream } from "../shared/output.js";
import { resolvePaths } from "../shared/paths.js";
import { createRunner } from "../shared/process.js";
import { createProgress } from "../shared/progress.js";
import { Redactor } from "../shared/redact.js";
import { kiviVersion } from "../shared/version.js";
import type { GlobalFlags } from "./parse.js";

const KEPT_LOGS = 50;

export interface ContextOptions {
  stdout: TextStream;
  stderr: TextStream;
  env: NodeJS.ProcessEnv;
  cwd: string;
  argv: readonly string[];
  flags: GlobalFlags;
}

/** A name for this run's debug log, in a folder kept to the newest few; undefined where none can be written. */
function prepareLog(logDir: string): string | undefined {
  try {
    mkdirSync(logDir, { recursive: true });
    const old = readdirSync(logDir)
      .filter((name) => /^\d{8}T\d{6}.*-debug\.log$/.test(name))
      .sort()
      .slice(0, -KEPT_LOGS);
    for (const name of old) rmSync(join(logDir, name), { force: true });
    const stamp = new Date().toISOString().replace(/[-:]|\.\d+Z$/g, "");
    return join(logDir, `${stamp}-${process.pid}-debug.log`);
  } catch {
    return undefined;
  }
}

/** The context of a real run: real processes, real clock, a debug log of its own. */
export function createContext(options: ContextOptions, signal: AbortSignal): Context {
  const paths = resolvePaths(options.env);
  const redact = new Redactor(options.env, options.argv);
  const out = new Output({ ...options, ...options.flags, redact, logFile: prepareLog(paths.logDir) });
  return {
    runner: createRunner(redact),
    out,
    redact,
    progress: createProgress(out),
    paths,
    signal,
    clock: { now: () => Date.now(), sleep: (ms, stop) => sleep(ms, undefined, stop ? { signal: stop } : {}) },
    env: options.env,
    cwd: options.cwd,
    argv: options.argv,
    version: kiviVersion(),
  };
}
