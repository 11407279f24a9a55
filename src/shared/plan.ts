import type { Context } from "./context.js";
import type { Output } from "./output.js";
import { showCommand } from "./process.js";
import type { Step } from "./progress.js";

/** One act of a plan. What `--dry-run` shows and what `execute` runs is this same object. */
export interface Action {
  readonly title: string;
  /** The command it runs, if it runs one. */
  readonly argv?: readonly string[];
  /** The file or folder it writes or reads, if one. */
  readonly path?: string;
  /** True when it changes nothing. */
  readonly readOnly: boolean;
  run(context: Context, step: Step): Promise<void>;
  /** Brings back what was before; called also when `run` failed half-way, so it must bear that. */
  undo?(context: Context): Promise<void>;
}

export interface Plan {
  readonly title: string;
  readonly actions: readonly Action[];
}

/** The JSON form of a plan. */
export function planDocument(plan: Plan): Record<string, unknown> {
  return {
    title: plan.title,
    actions: plan.actions.map(({ title, argv, path, readOnly }) => ({
      title,
      readOnly,
      ...(argv === undefined ? {} : { argv }),
      ...(path === undefined ? {} : { path }),
    })),
  };
}

export function renderPlan(out: Output, plan: Plan): void {
  out.result(`${out.colour.bold(plan.title)} (dry run, nothing is changed)`);
  plan.actions.forEach((action, index) => {
    const mark = action.readOnly ? out.colour.dim("reads ") : out.colour.yellow("writes");
    out.result(`${String(index + 1).padStart(3)}. ${mark} ${action.title}`);
    if (action.argv !== undefined) out.result(out.colour.dim(`            $ ${showCommand(action.argv)}`));
    if (action.path !== undefined) out.result(out.colour.dim(`            ${action.path}`));
  });
}

/**
 * Runs the actions in order. On a failure or an interrupt, undoes in reverse order what was begun, then throws
 * the first error; an undo that fails is reported as a warning and does not hide it.
 */
export async function execute(context: Context, plan: Plan): Promise<void> {
  const begun: Action[] = [];
  try {
    for (const action of plan.actions) {
      context.signal.throwIfAborted();
      begun.push(action);
      await context.progress.step(action.title, (step) => action.run(context, step));
    }
  } catch (error) {
    for (const action of begun.reverse()) {
      try {
        await action.undo?.(context);
      } catch (undoError) {
        context.out.warn(
          `Could not undo "${action.title}": ${undoError instanceof Error ? undoError.message : undoError}`,
        );
      }
    }
    throw error;
  }
}
