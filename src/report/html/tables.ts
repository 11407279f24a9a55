import type { Report } from "../../core/report/index.js";
import { oneLine } from "../../shared/one-line.js";
import { environment } from "../about.js";
import { type Metric, standing, tableSections } from "../metrics.js";
import { type CellRow, cellRows } from "../rows.js";
import { type Html, html, NOTHING } from "./markup.js";

function sortable(title: string, kind: "text" | "number"): Html {
  const style = kind === "number" ? "figure" : "";
  return html`<th scope="col" class="${style}" data-kind="${kind}"><button type="button">${title}</button></th>`;
}

function figureCell(metric: Metric, { cell, base }: CellRow): Html {
  const reading = cell.status === "ok" ? metric.read(cell) : undefined;
  if (reading === undefined) return html`<td class="figure">–</td>`;
  const relative = standing(metric, cell, base);
  return html`<td class="figure" data-value="${reading.value ?? ""}">${reading.text}${
    relative === "" ? NOTHING : html`<small>${relative}</small>`
  }</td>`;
}

/** All cells, a row each; the column of reasons is there where a cell has one. */
export function cellsTable(report: Report): Html {
  const several = report.sets.length > 1;
  const rows = cellRows(report.sets);
  const metrics = tableSections(report.sets.map((set) => set.result)).flat();
  const reasons = rows.some(({ cell }) => cell.status !== "ok");
  const body = rows.map((row) => {
    const { cell, set } = row;
    const reason = cell.status === "ok" ? "" : oneLine(cell.reason ?? "no reason given");
    return html`<tr>
<td data-value="${cell.cache}">${cell.cache}</td>
${several ? html`<td class="name" title="${oneLine(set.name)}" data-value="${set.name}">${oneLine(set.name)}</td>` : NOTHING}
<td data-value="${cell.status}" class="${cell.status === "ok" ? "" : "bad"}">${cell.status}</td>
${metrics.map((metric) => figureCell(metric, row))}
${reasons ? html`<td class="reason" data-value="${reason}">${reason}</td>` : NOTHING}
</tr>`;
  });
  return html`<div class="scroll" role="region" aria-label="All cells" tabindex="0"><table class="cells">
<thead><tr>
${sortable("cache", "text")}
${several ? sortable("result", "text") : NOTHING}
${sortable("status", "text")}
${metrics.map((metric) => sortable(metric.title, "number"))}
${reasons ? sortable("reason", "text") : NOTHING}
</tr></thead>
<tbody>
${body}
</tbody></table></div>`;
}

export function environmentTable(report: Report): Html {
  const rows = environment(report).map(
    ({
      name,
      values,
    }) => html`<tr><th scope="row">${name}</th>${values.map((value) => html`<td>${oneLine(value)}</td>`)}</tr>
`,
  );
  const head =
    report.sets.length > 1
      ? html`<thead><tr><td></td>${report.sets.map((set) => html`<th scope="col">${oneLine(set.name)}</th>`)}</tr></thead>`
      : NOTHING;
  return html`<div class="scroll" role="region" aria-label="Environment" tabindex="0"><table class="environment">${head}<tbody>
${rows}</tbody></table></div>`;
}
