/** One self-contained HTML page: drawn plots, all cells, the environment; it loads nothing. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Report, ResultSet } from "../../core/report/index.js";
import { oneLine } from "../../shared/one-line.js";
import { about, differences, UNLIKE } from "../about.js";
import { findings } from "../findings.js";
import { INTERVAL_NOTE } from "../interval.js";
import { PAIRED_NOTE } from "../paired.js";
import { SERVE_NOTE } from "../serve.js";
import { renderDocument } from "./document.js";
import { draw } from "./draw.js";
import { Html, html, NOTHING } from "./markup.js";
import { plots } from "./plots.js";
import { cellsTable, environmentTable } from "./tables.js";

function setHeader(set: ResultSet, several: boolean): Html {
  const [title = "", ...small] = about(set).map(oneLine);
  return html`<div class="set">
<p>${several ? html`<strong>${oneLine(set.name)}</strong>: ` : NOTHING}${title}${
    set.result.complete ? NOTHING : html` <strong class="bad">(incomplete)</strong>`
  }</p>
${small.map((line) => html`<p class="quiet">${line}</p>`)}
</div>`;
}

function list(lines: readonly string[]): Html {
  return html`<ul>${lines.map((line) => html`<li>${oneLine(line)}</li>`)}</ul>`;
}

function warnings(report: Report): Html {
  const { sets, unlike, changed } = report;
  const several = sets.length > 1;
  const told = findings(report).filter((finding) => finding.set !== undefined);
  return html`${
    unlike.length === 0
      ? NOTHING
      : html`<div class="alert" role="alert"><p>${UNLIKE} They differ in</p>${list(differences(unlike, sets))}</div>`
  }${changed.length === 0 ? NOTHING : html`<h2>What differs</h2>${list(differences(changed, sets))}`}${
    told.length === 0
      ? NOTHING
      : html`<h2>To know</h2><ul>${told.map(
          ({ level, title, message, set }) =>
            html`<li class="${level}"><strong>${level}</strong> ${several ? `${oneLine(set?.name ?? "")}: ` : ""}${title}: ${oneLine(message)}</li>`,
        )}</ul>`
  }`;
}

async function figures(report: Report): Promise<Html> {
  const drawn = await Promise.all(
    plots(report).map(async (plot) => ({ ...plot, svg: await draw(plot.spec) })),
  );
  if (drawn.length === 0) return NOTHING;
  return html`<h2>Plots</h2><div class="plots">
${drawn.map(
  ({ title, note, svg }) => html`<figure><figcaption>${title}<span>${note}</span></figcaption>${svg}</figure>
`,
)}</div>`;
}

/** The page, of which only `templates/report` is read from disk. */
export async function renderPage(report: Report, templates: string): Promise<string> {
  const script = await readFile(join(templates, "report", "sort.js"), "utf8");
  // The browser is told to run no script but this one.
  const hash = createHash("sha256").update(script).digest("base64");
  const several = report.sets.length > 1;
  const title = `KV cache benchmark: ${oneLine(several ? report.sets.map((set) => set.name).join(", ") : (report.sets[0]?.result.model ?? ""))}`;
  const updated =
    report.sets
      .map((set) => set.result.updatedAt)
      .sort()
      .at(-1) ?? "";
  const body = html`<h1>KV cache benchmark</h1>
${report.sets.map((set) => setHeader(set, several))}
${warnings(report)}
${await figures(report)}
<h2>All cells</h2>
${cellsTable(report)}
<p class="quiet">Prefill and decode in tokens/s of the whole engine, medians. ${INTERVAL_NOTE} ${PAIRED_NOTE} ~ samples differ by more than 15 %. * more tokens than the cache holds.${
    report.sets.some(({ result }) => result.cells.some((cell) => cell.serve !== undefined))
      ? html` ${SERVE_NOTE}`
      : NOTHING
  }</p>
<h2>Environment</h2>
${environmentTable(report)}
<footer>Measured by kivi bench, ${updated}; rendered by kivi report.</footer>
<script>${new Html(script)}</script>`;
  return renderDocument(templates, title, body, `'sha256-${hash}'`);
}
