import { StringDecoder } from "node:string_decoder";

/** Splits chunks into lines; a carriage return (progress bars) ends a line too. Empty lines are dropped. */
export class LineSplitter {
  #decoder = new StringDecoder("utf8");
  #rest = "";

  constructor(private readonly sink: (line: string) => void) {}

  push(chunk: Buffer): void {
    const parts = (this.#rest + this.#decoder.write(chunk)).split(/\r\n|\n|\r/);
    this.#rest = parts.pop() ?? "";
    for (const part of parts) if (part !== "") this.sink(part);
  }

  end(): void {
    const last = this.#rest + this.#decoder.end();
    this.#rest = "";
    if (last !== "") this.sink(last);
  }
}

/** The last `limit` lines of a stream, for error messages. */
export class Tail {
  #lines: string[] = [];

  constructor(private readonly limit: number) {}

  push(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length > this.limit) this.#lines.shift();
  }

  get lines(): string[] {
    return [...this.#lines];
  }
}

/** The JSON of the last line that begins with a mark: libraries print around it. Undefined where there is none. */
export function markedAnswer(stdout: string, mark: string): unknown {
  const line = stdout.split("\n").findLast((text) => text.startsWith(mark));
  return line === undefined ? undefined : JSON.parse(line.slice(mark.length));
}
