import type { CommandSpec } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { EXIT, errorDocument, Interruption, KiviError, usageError } from "../shared/errors.js";
import { showCommand } from "../shared/process.js";
import { killAllGroups } from "../shared/process-group.js";
import { type ContextOptions, createContext } from "./context.js";

interface SessionOptions extends ContextOptions {
  overrides: Partial<Context>;
}

/** Turns schema issues into one usage error that names every bad value. */
function inputError(
  command: CommandSpec,
  issues: readonly { path: PropertyKey[]; message: string }[],
): KiviError {
  const names = new Map<string, string>();
  for (const option of command.options ?? []) {
    const long = /--(?:no-)?([a-z0-9-]+)/.exec(option.flags)?.[1];
    if (long !== undefined)
      names.set(
        long.replace(/-([a-z0-9])/g, (_, c: string) => c.toUpperCase()),
        `--${long}`,
      );
  }
  for (const argument of command.arguments ?? []) names.set(argument.name, `<${argument.name}>`);
  const lines = issues.map(({ path, message }) => {
    const key = String(path[0] ?? "");
    return key === "" ? message : `${names.get(key) ?? key}: ${message}`;
  });
  const hint = `Run kivi ${command.name} --help`;
  return usageError("invalid-value", lines.join("\n"), hint, { details: { problems: lines } });
}

/** One run of one command: builds the context, reports the outcome, maps errors to exit codes. */
export class Session {
  readonly #context: Context;
  readonly #abort = new AbortController();
  readonly #logFile: string | undefined;

  constructor(options: SessionOptions) {
    this.#context = { ...createContext(options, this.#abort.signal), ...options.overrides };
    this.#logFile = this.#context.out.logFile;
  }

  /** The first signal asks everything to stop; a second one kills all children at once. */
  listen(Reason: typeof Interruption): () => void {
    const onSignal = (name: "SIGINT" | "SIGTERM" | "SIGHUP"): void => {
      if (this.#abort.signal.aborted) killAllGroups();
      else {
        this.#context.out.info(`\n${name}: stopping (again to kill at once)`);
        this.#abort.abort(new Reason(name));
      }
    };
    const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
    for (const name of names) process.on(name, onSignal);
    return () => {
      for (const name of names) process.off(name, onSignal);
    };
  }

  async run(command: CommandSpec, input: Record<string, unknown>, argv: readonly string[]): Promise<number> {
    const { out, redact } = this.#context;
    const shown = showCommand(["kivi", ...redact.words(argv)]);
    // Every user of the machine may read it. What is not a secret stays as it was.
    if (shown !== showCommand(["kivi", ...argv])) process.title = shown;
    out.debugOnly("run", `kivi ${this.#context.version}: ${shown} in ${this.#context.cwd}`);
    try {
      const checked = (await command.schema()).safeParse(input);
      if (!checked.success) throw inputError(command, checked.error.issues);
      const handler = await command.handler();
      const outcome = await handler(checked.data, this.#context);
      if (out.json) out.document(outcome.result);
      else outcome.render(out);
      if (this.#abort.signal.aborted) throw this.#abort.signal.reason;
      await out.close();
      return outcome.exitCode ?? EXIT.ok;
    } catch (error) {
      return this.fail(error);
    }
  }

  async fail(thrown: unknown): Promise<number> {
    const { out } = this.#context;
    const { aborted, reason } = this.#abort.signal;
    // After a signal, the errors of everything that was cut short are the signal's.
    const error =
      aborted && !(thrown instanceof KiviError && thrown.exitCode === EXIT.internal) ? reason : thrown;
    const document = errorDocument(error);
    out.debugOnly("error", thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown));
    if (out.json) out.document({ ...document, ...(this.#logFile ? { log: this.#logFile } : {}) });
    else this.#explain(error);
    await out.close();
    return document.error.exitCode as number;
  }

  #explain(error: unknown): void {
    const { out } = this.#context;
    const { errColour } = out;
    if (error instanceof Interruption) {
      out.error(errColour.dim(error.message));
      return;
    }
    const known = error instanceof KiviError;
    const message = error instanceof Error ? error.message : String(error);
    out.error(`${errColour.red("error:")} ${known ? message : `internal error: ${message}`}`);
    if (known && error.hint !== undefined) out.error(`${errColour.cyan("next:")}  ${error.hint}`);
    const showLog = !known || error.exitCode >= EXIT.environment;
    if (showLog && this.#logFile !== undefined) out.error(errColour.dim(`log:   ${this.#logFile}`));
  }
}
