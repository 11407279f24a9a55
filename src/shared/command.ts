import type { ZodType } from "zod";
import type { Context } from "./context.js";
import type { Output } from "./output.js";

export interface ArgumentSpec {
  /** As shown in help, e.g. "venv"; the schema sees it under its camelCase name. */
  readonly name: string;
  readonly description: string;
  readonly required?: boolean;
  /** Takes all words that are left; the schema sees an array. Only the last argument may. */
  readonly variadic?: boolean;
}

export interface OptionSpec {
  /** e.g. "--device <kind>", "--dry-run", "-p, --port <number>". */
  readonly flags: string;
  readonly description: string;
  /** Shown in help; the value itself comes from the schema. */
  readonly defaultText?: string;
  /** May be given more than once; the schema sees an array. */
  readonly repeatable?: boolean;
  /** Left out of help. */
  readonly hidden?: boolean;
}

export interface Example {
  readonly command: string;
  readonly explanation: string;
}

export interface Outcome {
  /** 1 = ran well and found something (threshold crossed, failed check). */
  readonly exitCode?: 0 | 1;
  /** The document printed under `--json`. */
  readonly result: object;
  /** The same for people, written with `out.result`. */
  render(out: Output): void;
}

export type Handler<T> = (input: T, context: Context) => Promise<Outcome>;

/**
 * A command as data. The schema receives one object: arguments and options by camelCase name, all strings
 * (booleans for flags without a value), plus `rest: string[]` when `passThrough` is set. Keep heavy imports
 * (zod included) behind `schema` and `handler`: this file is loaded for `kivi --help`.
 */
export interface CommandSpec<T = unknown> {
  /** One word, or two for a command under another that comes before it: "bench kernels". */
  readonly name: string;
  readonly summary: string;
  readonly description: string;
  readonly examples: readonly Example[];
  readonly arguments?: readonly ArgumentSpec[];
  readonly options?: readonly OptionSpec[];
  /** Takes words after `--`, shown in help by this name. */
  readonly passThrough?: { readonly name: string; readonly description: string };
  schema(): Promise<ZodType<T>>;
  handler(): Promise<Handler<T>>;
}

/** Keeps the link between schema and handler types, then forgets it for the registry. */
export function defineCommand<T>(spec: CommandSpec<T>): CommandSpec {
  return spec as unknown as CommandSpec;
}
