import { join } from "node:path";
import type { z } from "zod";
import type { Context } from "../../shared/context.js";
import { childError } from "../../shared/errors.js";
import { markedAnswer } from "../../shared/lines.js";
import { runChecked } from "../../shared/process.js";
import type { Venv } from "../venv/index.js";

export interface Question<T> {
  /** Of templates/probes. */
  readonly script: string;
  readonly words?: readonly string[];
  /** Begins the line of its answer; libraries print around it. */
  readonly mark: string;
  readonly answer: z.ZodType<T>;
  /** For errors: what is done, and their code. */
  readonly what: string;
  readonly code: string;
  readonly hint?: string;
  readonly cwd?: string;
  readonly timeoutMs: number;
}

/** The command line of a probe, which leaves no byte code behind: looking must not change the environment. */
export function probeCommand(context: Context, venv: Venv, script: string): [string, ...string[]] {
  return [venv.python, "-B", join(context.paths.templates, "probes", script)];
}

/** Runs a probe with the environment's own Python and reads its answer. */
export async function askProbe<T>(context: Context, venv: Venv, question: Question<T>): Promise<T> {
  const { script, words = [], mark, answer, what, code, hint, cwd = venv.path, timeoutMs } = question;
  const argv = probeCommand(context, venv, script);
  const { stdout } = await runChecked(
    context.runner,
    { argv: [...argv, ...words], readOnly: true },
    {
      what,
      code,
      ...(hint === undefined ? {} : { hint }),
      cwd,
      env: { NO_COLOR: "1" },
      signal: context.signal,
      timeoutMs,
    },
  );
  const told = markedAnswer(stdout, mark);
  if (told === undefined) throw childError(code, `${argv.at(-1)} printed no answer.`);
  return answer.parse(told);
}
