/** What is asked of lm-eval, EleutherAI's harness, in the environment that is measured. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";

/** As an environment knows it. */
export const LM_EVAL = "lm-eval";

export interface LmEvalSettings {
  /** Names of lm-eval's own tasks, or paths of YAML files in its form. */
  readonly tasks: readonly string[];
  /** Documents of each task at most. */
  readonly limit?: number | undefined;
}

export const DEFAULT_TASKS: readonly string[] = ["wikitext"];

/** A file that is there by its whole path; any other word is the name of a task. */
export function taskPath(cwd: string, task: string): string {
  const path = resolve(cwd, task);
  return existsSync(path) ? path : task;
}
