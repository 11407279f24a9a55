/** The matrix as text: a pure function of the saved results. */
import type { BenchResult } from "../core/bench/result.js";
import type { Report } from "../core/report/index.js";
import { oneLine } from "../shared/one-line.js";
import { about, differences, UNLIKE } from "./about.js";
import { doubts } from "./findings.js";
import { type Grid, layOut, type Row } from "./grid.js";
import { INTERVAL_NOTE } from "./interval.js";
import { type Metric, standing, tableSections } from "./metrics.js";
import { PAIRED_NOTE } from "./paired.js";
import { type CellRow, cellRows, notMeasured, trouble } from "./rows.js";
import { SERVE_NOTE } from "./serve.js";

/** Marks up a line; the plain form is the identity. */
export interface Paint {
  readonly title: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly quiet: (text: string) => string;
}

export const PLAIN: Paint = { title: (text) => text, bad: (text) => text, quiet: (text) => text };

function texts(metric: Metric, { cell, base }: CellRow): string[] {
  const text = metric.read(cell)?.text ?? "-";
  return metric.relative === undefined ? [text] : [text, standing(metric, cell, base)];
}

function grid(rows: readonly CellRow[], metrics: readonly Metric[], name: (row: CellRow) => string): Grid {
  return {
    head: [
      "cache",
      ...metrics.flatMap(({ title, relative }) => (relative === undefined ? [title] : [title, ""])),
    ],
    rows: rows.map((row): Row => {
      if (row.cell.status !== "ok") return { name: name(row), note: oneLine(trouble(row.cell)) };
      return { cells: [name(row), ...metrics.flatMap((metric) => texts(metric, row))] };
    }),
  };
}

/** What the marks in the figures mean, and what else must be known of a cell. */
function footnotes(sections: readonly Metric[][], rows: readonly CellRow[], several: boolean): string[] {
  const ran = rows.filter(({ cell }) => cell.status === "ok");
  const shown = ran.flatMap(({ cell }) => sections.flat().map((metric) => metric.read(cell)?.text ?? ""));
  const reaches = (kind: Metric["relative"]): boolean =>
    ran.some(({ cell, base }) =>
      sections
        .flat()
        .some((metric) => metric.relative === kind && standing(metric, cell, base).endsWith("]")),
    );
  const rates = ran.some(({ cell }) => cell.throughput !== undefined);
  const served = ran.some(({ cell }) => cell.serve !== undefined);
  const notes = [
    ...(rates ? ["", "Prefill and decode in tokens/s of the whole engine, medians."] : []),
    ...(served ? ["", SERVE_NOTE] : []),
    ...(reaches("ratio") ? [INTERVAL_NOTE] : []),
    ...(reaches("percent") ? [PAIRED_NOTE] : []),
    ...(shown.some((text) => text.startsWith("~"))
      ? ["~ samples differ by more than 15 %: the machine was busy; measure again or with more --repeats."]
      : []),
    ...(shown.some((text) => text.endsWith("*"))
      ? ["* more tokens than this cache holds: sequences waited or were computed again."]
      : []),
  ];
  for (const { set, cell, base } of ran) {
    const where = several ? `${cell.cache} of ${set.name}` : cell.cache;
    notes.push(...doubts(cell, base).map(({ message }) => `${where}: ${message}`));
  }
  return notes;
}

/**
 * The table with ratios to each set's baseline, and what a reader must know to believe it. What does not fit into
 * `columns` characters becomes one table for each suite.
 */
export function renderReport(report: Report, paint: Paint = PLAIN, columns = 120): string {
  const { sets, unlike, changed } = report;
  const several = sets.length > 1;
  const rows = cellRows(sets);
  const lines: string[] = [];
  for (const set of sets) {
    const [title = "", ...small] = about(set).map(oneLine);
    lines.push(paint.title(several ? `${oneLine(set.name)}: ${title}` : title));
    lines.push(...small.map(paint.quiet));
  }
  if (unlike.length > 0) {
    lines.push("", paint.bad(UNLIKE));
    lines.push(...differences(unlike, sets).map((line) => paint.bad(`  ${oneLine(line)}`)));
  }
  if (changed.length > 0) {
    lines.push("", paint.quiet("The results differ in"));
    lines.push(...differences(changed, sets).map((line) => paint.quiet(`  ${oneLine(line)}`)));
  }

  const sections = tableSections(sets.map((set) => set.result));
  const name = ({ set, cell }: CellRow) => (several ? `${cell.cache}  ${oneLine(set.name)}` : cell.cache);
  const isBad = (index: number): boolean => rows[index]?.cell.status !== "ok";
  const whole = layOut(grid(rows, sections.flat(), name));
  const widest = Math.max(
    ...whole.filter((_, line) => line === 0 || !isBad(line - 1)).map((line) => line.length),
  );
  const tables = widest <= columns ? [whole] : sections.map((section) => layOut(grid(rows, section, name)));
  for (const [head = "", ...body] of tables) {
    lines.push("", paint.quiet(head));
    lines.push(...body.map((line, index) => (isBad(index) ? paint.bad(line) : line)));
  }
  lines.push(...footnotes(sections, rows, several).map((line) => (line === "" ? line : paint.quiet(line))));
  for (const { name: setName, result } of sets) {
    const where = several ? ` in ${oneLine(setName)}` : "";
    const missing = notMeasured(result);
    if (missing.length > 0) lines.push(paint.bad(`Not measured${where}: ${missing.join(", ")}`));
    if (!result.complete)
      lines.push(paint.bad(`Incomplete${where}: the run is not finished or was interrupted.`));
  }
  return lines.join("\n");
}

/** The table of one result, as `kivi bench` prints it. */
export function renderTable(result: BenchResult, paint: Paint = PLAIN, columns = 120): string {
  return renderReport({ sets: [{ name: "", path: "", result }], unlike: [], changed: [] }, paint, columns);
}
