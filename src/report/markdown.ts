/** Markdown as GitHub reads it: for pull requests and job summaries. */
import type { Report } from "../core/report/index.js";
import { about, differences, environment, UNLIKE } from "./about.js";
import { escapeMarkdown } from "./escape.js";
import { type Finding, findings } from "./findings.js";
import { type Metric, standing, tableSections } from "./metrics.js";
import { type CellRow, cellRows, trouble } from "./rows.js";

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

/** The first `left` columns are words, the others figures. */
function table(head: readonly string[], rows: readonly (readonly string[])[], left: number): string[] {
  return [row(head), row(head.map((_, column) => (column < left ? "---" : "---:"))), ...rows.map(row)];
}

function figureText(metric: Metric, { cell, base }: CellRow): string {
  const text = metric.read(cell)?.text;
  if (text === undefined) return "-";
  const relative = standing(metric, cell, base);
  return escapeMarkdown(relative === "" ? text : `${text} (${relative})`);
}

/** Sections of figures as tables, with an empty line after each, and one of the cells that have none. */
export function figureTables(report: Report, sections: readonly Metric[][]): string[] {
  const several = report.sets.length > 1;
  const rows = cellRows(report.sets);
  const names = ({ set, cell }: CellRow) => [cell.cache, ...(several ? [escapeMarkdown(set.name)] : [])];
  const head = ["cache", ...(several ? ["result"] : [])];
  const ran = rows.filter(({ cell }) => cell.status === "ok");
  const lost = rows.filter(({ cell }) => cell.status !== "ok");
  return [
    ...sections.flatMap((metrics) => [
      ...table(
        [...head, ...metrics.map((metric) => escapeMarkdown(metric.title))],
        ran.map((one) => [...names(one), ...metrics.map((metric) => figureText(metric, one))]),
        head.length,
      ),
      "",
    ]),
    ...(lost.length === 0
      ? []
      : [
          ...table(
            [...head, "no figures"],
            lost.map((one) => [...names(one), escapeMarkdown(trouble(one.cell))]),
            head.length + 1,
          ),
          "",
        ]),
  ];
}

function findingLine({ level, set, title, message }: Finding, several: boolean): string {
  const where = several && set !== undefined ? `${set.name}: ` : "";
  return `- **${level}** ${escapeMarkdown(`${where}${title}: ${message}`)}`;
}

export function renderMarkdown(report: Report): string {
  const { sets, unlike, changed } = report;
  const several = sets.length > 1;
  const told = findings(report).filter((finding) => finding.title !== "unlike results");
  return [
    "## KV cache benchmark",
    "",
    ...sets.map((set) => {
      const [title = ""] = about(set);
      const complete = set.result.complete ? "" : " **(incomplete)**";
      return `- ${several ? `**${escapeMarkdown(set.name)}**: ` : ""}${escapeMarkdown(title)}${complete}`;
    }),
    "",
    ...(unlike.length === 0
      ? []
      : [
          "> [!CAUTION]",
          `> ${escapeMarkdown(UNLIKE)}`,
          ...differences(unlike, sets).map((line) => `> - ${escapeMarkdown(line)}`),
          "",
        ]),
    ...(changed.length === 0
      ? []
      : [
          "The results differ in",
          "",
          ...differences(changed, sets).map((line) => `- ${escapeMarkdown(line)}`),
          "",
        ]),
    ...figureTables(report, tableSections(sets.map((set) => set.result))),
    ...(told.length === 0 ? [] : [...told.map((finding) => findingLine(finding, several)), ""]),
    "<details><summary>Environment</summary>",
    "",
    ...table(
      ["", ...sets.map((set) => escapeMarkdown(set.name))],
      environment(report).map(({ name, values }) => [name, ...values.map(escapeMarkdown)]),
      1 + sets.length,
    ),
    "",
    "</details>",
  ].join("\n");
}
