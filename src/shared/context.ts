import type { Output } from "./output.js";
import type { Paths } from "./paths.js";
import type { ProcessRunner } from "./process.js";
import type { Progress } from "./progress.js";
import type { Redactor } from "./redact.js";

export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** All that a command may touch of the world; tests put their own parts in. */
export interface Context {
  readonly runner: ProcessRunner;
  readonly out: Output;
  /** `out` and `runner` use it by themselves; what else is written to be kept goes through it. */
  readonly redact: Redactor;
  readonly progress: Progress;
  readonly paths: Paths;
  /** Aborted by SIGINT and SIGTERM; its reason is an `Interruption`. */
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
  /** The words after `kivi`. */
  readonly argv: readonly string[];
  /** kivi's own version, from package.json. */
  readonly version: string;
}
