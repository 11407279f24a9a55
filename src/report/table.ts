/** The matrix as text: a pure function of the saved result. */
import type { BenchResult, Cell } from "../core/bench/result.js";
import { bytes, figure, percent, ratio, whole } from "./format.js";
import { type Grid, layOut, type Row } from "./grid.js";

/** Marks up a line; the plain form is the identity. */
export interface Paint {
  readonly title: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly quiet: (text: string) => string;
}

export const PLAIN: Paint = { title: (text) => text, bad: (text) => text, quiet: (text) => text };

interface Column {
  readonly title: string;
  /** The figure with its ratio to the baseline's cell; undefined where the cell has none. */
  read(cell: Cell, base: Cell): readonly string[] | undefined;
  /** Texts that `read` gives. */
  readonly width: number;
}

function withRatio(value: number | null | undefined, base: number | null | undefined): string[] | undefined {
  if (value === undefined || value === null) return undefined;
  return [figure(value), base === undefined || base === null ? "" : ratio(value, base)];
}

function capacityColumns(context: number): Column[] {
  return [
    {
      title: "bytes/token",
      width: 2,
      read: (c, b) => withRatio(c.capacity?.bytesPerToken, b.capacity?.bytesPerToken),
    },
    { title: "tokens held", width: 2, read: (c, b) => withRatio(c.capacity?.tokens, b.capacity?.tokens) },
    {
      title: `seqs of ${whole(context)}`,
      width: 1,
      read: (c) => (c.capacity ? [figure(c.capacity.concurrency)] : undefined),
    },
    {
      title: "staging",
      width: 1,
      read: (c) =>
        c.capacity ? [c.capacity.stagingBytes ? bytes(c.capacity.stagingBytes) : "-"] : undefined,
    },
  ];
}

type Load = NonNullable<Cell["throughput"]>[number];

/** Rates whose samples differ by more than this are of a machine that did something else besides. */
const NOISY = 0.15;

/** Difference between the slowest and the fastest sample, relative to the middle of the two. */
function spread(seconds: readonly number[]): number {
  const most = Math.max(...seconds);
  const least = Math.min(...seconds);
  return least <= 0 ? Number.POSITIVE_INFINITY : (most - least) / ((most + least) / 2);
}

function throughputColumns(shape: string): Column[] {
  const column = (
    title: string,
    rate: (load: Load) => number | null,
    seconds: (sample: Load["samples"][number]) => number,
  ): Column => {
    const of = (cell: Cell) => cell.throughput?.find((entry) => entry.shape === shape);
    return {
      title: `${title} ${shape}`,
      width: 2,
      read: (cell, base) => {
        const [load, other] = [of(cell), of(base)];
        if (load === undefined || other === undefined) return undefined;
        const noisy = spread(load.samples.map(seconds)) > NOISY ? "~" : "";
        const [value, times = ""] = withRatio(rate(load), rate(other)) ?? ["none", ""];
        return [`${noisy}${value}${load.fits ? "" : "*"}`, times];
      },
    };
  };
  return [
    column(
      "prefill",
      (load) => load.prefillTokensPerSecond,
      (sample) => sample.prefillSeconds,
    ),
    column(
      "decode",
      (load) => load.decodeTokensPerSecond,
      (sample) => sample.totalSeconds - sample.prefillSeconds,
    ),
  ];
}

const perplexityColumn: Column = {
  title: "perplexity",
  width: 2,
  read: (cell, base) => {
    if (cell.perplexity === undefined) return undefined;
    const own = cell.perplexity.perplexity;
    const other = base.perplexity?.perplexity;
    return [own.toFixed(3), other === undefined || cell === base ? "" : percent(own, other)];
  },
};

function grid(cells: readonly Cell[], base: Cell, columns: readonly Column[]): Grid {
  const head = [
    "cache",
    ...columns.flatMap((column) => [column.title, ...Array<string>(column.width - 1).fill("")]),
  ];
  const rows = cells.map((cell): Row => {
    if (cell.status !== "ok")
      return { name: cell.cache, note: `${cell.status}: ${cell.reason ?? "no reason given"}` };
    const texts = columns.flatMap(
      (column) => column.read(cell, base) ?? Array<string>(column.width).fill("-"),
    );
    return { cells: [cell.cache, ...texts] };
  });
  return { head, rows };
}

function about(result: BenchResult, base: Cell | undefined): string[] {
  const { machine, engine, perplexity } = base ?? {};
  if (machine === undefined || engine === undefined) return [result.model];
  const plugin = result.cells.find((cell) => cell.machine?.plugin)?.machine?.plugin;
  const device = machine.platform === "cpu" ? `${machine.device}, ${machine.cpus} CPUs` : machine.device;
  const memory = result.config.kvMemoryBytes;
  const settings = [
    typeof memory === "number" ? `${bytes(memory)} of cache memory a cell` : "",
    `staging for ${engine.maxNumSeqs} sequences counted`,
    engine.enforceEager ? "eager" : "compiled",
  ];
  return [
    `${result.model} (${engine.dtype}) on ${device}`,
    `vLLM ${machine.vllm}, torch ${machine.torch}, vllm-kivi ${plugin ?? "not installed"}, kivi ${result.tool.version}`,
    settings.filter((part) => part !== "").join(", "),
    ...(perplexity === undefined
      ? []
      : [`perplexity of ${perplexity.windows} windows of ${perplexity.window} tokens of a text`]),
  ];
}

function firstWord(line: string): string {
  return line.split(" ", 1)[0] ?? "";
}

/**
 * The table with ratios to the baseline, and what a reader must know to believe it. What does not fit into
 * `columns` characters becomes one table for each suite.
 */
export function renderTable(result: BenchResult, paint: Paint = PLAIN, columns = 120): string {
  const base = result.cells.find((cell) => cell.cache === "bf16" && cell.status === "ok");
  const lines = about(result, base).map((line, index) =>
    index === 0 ? paint.title(line) : paint.quiet(line),
  );
  if (base === undefined) {
    return [
      ...lines,
      ...result.cells.map((cell) => paint.bad(`${cell.cache}  ${cell.status}: ${cell.reason}`)),
    ].join("\n");
  }
  const sections: Column[][] = [];
  if (result.suites.includes("capacity")) sections.push(capacityColumns(base.capacity?.context ?? 0));
  const shapes = (base.throughput ?? []).map((entry) => entry.shape);
  for (const shape of shapes) sections.push(throughputColumns(shape));
  if (result.suites.includes("perplexity")) sections.push([perplexityColumn]);

  const bad = new Set(
    result.cells.filter((cell) => cell.status !== "ok").map((cell) => cell.cache as string),
  );
  const whole = layOut(grid(result.cells, base, sections.flat()));
  const fits =
    Math.max(...whole.filter((line) => !bad.has(firstWord(line))).map((line) => line.length)) <= columns;
  const tables = fits ? [whole] : sections.map((section) => layOut(grid(result.cells, base, section)));
  for (const [head = "", ...rows] of tables) {
    lines.push("", paint.quiet(head));
    for (const row of rows) lines.push(bad.has(firstWord(row)) ? paint.bad(row) : row);
  }
  if (shapes.length > 0)
    lines.push("", paint.quiet("Prefill and decode in tokens/s of the whole engine, medians."));
  if (tables.flat().some((line) => /~(\d|none)/.test(line))) {
    lines.push(
      paint.quiet(
        "~ samples differ by more than 15 %: the machine was busy; measure again or with more --repeats.",
      ),
    );
  }
  if (result.cells.some((cell) => cell.throughput?.some((entry) => !entry.fits))) {
    lines.push(paint.quiet("* more tokens than this cache holds: sequences waited or were computed again."));
  }
  for (const { cache, capacity, engine } of result.cells) {
    if (capacity === undefined || engine === undefined || capacity.stagingSlots === 0) continue;
    if (capacity.stagingSlots < (base.engine?.maxNumSeqs ?? 0)) {
      lines.push(
        paint.quiet(
          `${cache} staged for ${capacity.stagingSlots} sequences only: staging is limited to a share of the memory.`,
        ),
      );
    }
  }
  const missing = result.planned.filter((name) => !result.cells.some((cell) => cell.cache === name));
  if (missing.length > 0) lines.push(paint.bad(`Not measured: ${missing.join(", ")}`));
  return lines.join("\n");
}
