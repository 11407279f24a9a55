import { createWriteStream, type WriteStream } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { Chalk, type ChalkInstance } from "chalk";
import { Redactor } from "./redact.js";

export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

export interface OutputOptions {
  stdout: TextStream;
  stderr: TextStream;
  env: NodeJS.ProcessEnv;
  json: boolean;
  quiet: boolean;
  verbose: boolean;
  /** The debug log of this run; everything goes there whatever the terminal shows. */
  logFile?: string | undefined;
  /** Hides secrets in all that is written. */
  redact?: Redactor | undefined;
}

function colourLevel(stream: TextStream, env: NodeJS.ProcessEnv): 0 | 1 | 2 | 3 {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== "") return 0;
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== "") return env.FORCE_COLOR === "0" ? 0 : 1;
  if (!stream.isTTY || env.TERM === "dumb") return 0;
  return env.COLORTERM === "truecolor" ? 3 : 2;
}

/** Where words go: results to stdout; progress, warnings and logs to stderr and the debug log. */
export class Output {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;
  /** For text written with `result`. */
  readonly colour: ChalkInstance;
  /** For text written with `info`, `warn` and progress. */
  readonly errColour: ChalkInstance;
  /** stderr can show a moving spinner. */
  readonly interactive: boolean;
  readonly columns: number;
  readonly #options: OutputOptions;
  readonly #redact: Redactor;
  readonly #log: WriteStream | undefined;
  /** Set while a spinner owns the last line, to clear and redraw it around other writes. */
  around: ((write: () => void) => void) | undefined;

  constructor(options: OutputOptions) {
    this.#options = options;
    this.#redact = options.redact ?? new Redactor({}, []);
    this.json = options.json;
    this.quiet = options.quiet;
    this.verbose = options.verbose;
    this.colour = new Chalk({ level: colourLevel(options.stdout, options.env) });
    this.errColour = new Chalk({ level: colourLevel(options.stderr, options.env) });
    // A terminal that claims no width (a bare pty) cannot hold a line that is drawn again and again.
    const wide = (options.stderr.columns ?? 0) > 0;
    const tty = options.stderr.isTTY === true && wide && options.env.TERM !== "dumb" && !options.env.CI;
    this.interactive = tty && !options.quiet && !options.verbose;
    this.columns = options.stdout.columns ?? 100;
    if (options.logFile !== undefined) {
      this.#log = createWriteStream(options.logFile, { flags: "a" });
      // A log that cannot be written is no reason to fail the run.
      this.#log.on("error", () => undefined);
    }
  }

  get logFile(): string | undefined {
    return this.#options.logFile;
  }

  get errStream(): TextStream {
    return this.#options.stderr;
  }

  /** A line (or block) of the result. Under `--json` only `document` writes to stdout. */
  result(text: string): void {
    this.debugOnly("result", text);
    if (!this.json) this.#write(this.#options.stdout, text);
  }

  /** A part of the result without a line end (a streamed answer). */
  resultPart(text: string): void {
    if (!this.json) this.#options.stdout.write(this.#redact.text(text));
  }

  document(value: unknown): void {
    this.#put(this.#options.stdout, JSON.stringify(this.#redact.document(value), null, 2));
  }

  info(text: string): void {
    this.debugOnly("info", text);
    if (!this.quiet) this.#write(this.#options.stderr, text);
  }

  warn(text: string): void {
    this.debugOnly("warn", text);
    this.#write(this.#options.stderr, `${this.errColour.yellow("warning:")} ${text}`);
  }

  error(text: string): void {
    this.debugOnly("error", text);
    this.#write(this.#options.stderr, text);
  }

  debug(text: string): void {
    this.debugOnly("debug", text);
    if (this.verbose) this.#write(this.#options.stderr, this.errColour.dim(text));
  }

  debugOnly(level: string, text: string): void {
    const plain = this.#redact.text(stripVTControlCharacters(text));
    this.#log?.write(`${new Date().toISOString()} ${level} ${plain}\n`);
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      if (this.#log === undefined || this.#log.destroyed) resolve();
      else this.#log.end(() => resolve());
    });
  }

  #write(stream: TextStream, text: string): void {
    this.#put(stream, this.#redact.text(text));
  }

  #put(stream: TextStream, text: string): void {
    const write = (): void => void stream.write(`${text}\n`);
    if (this.around === undefined) write();
    else this.around(write);
  }
}
