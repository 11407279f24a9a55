/** What the README shows of results that are checked in: all of it is rendered, so that a test can tell when it is stale. */
import { join } from "node:path";
import { loadReport, type Report } from "../core/report/index.js";
import { about } from "./about.js";
import { renderAs } from "./formats.js";
import { renderPicture } from "./html/picture.js";
import { plots } from "./html/plots.js";
import { figureTables } from "./markdown.js";
import { type Metric, metricSections } from "./metrics.js";

/** `<!-- measured: NAME; columns: METRICS; picture: TITLE OF A PLOT -->`, up to `<!-- /measured -->`. */
const SECTION =
  /(?<head><!-- measured: (?<name>[\w.-]+); columns: (?<columns>[\w ]+)(?:; picture: (?<picture>[^>]+?))? -->\n)[\s\S]*?(?<tail><!-- \/measured -->)/g;

export interface Published {
  /** Path from the repository's root. */
  readonly path: string;
  readonly text: string;
}

const folder = join("bench", "results");

function pictureOf(report: Report, title: string) {
  const found = plots(report);
  const plot = found.find((one) => one.title === title);
  if (plot !== undefined) return plot;
  throw new Error(
    `${report.sets[0]?.name} has no plot "${title}"; it has ${found.map((one) => one.title).join(", ")}`,
  );
}

/** The metrics of these names, each under all its loads. */
function columnsOf(report: Report, names: readonly string[]): Metric[] {
  const all = metricSections(report.sets.map((set) => set.result)).flat();
  return names.flatMap((name) => {
    const found = all.filter((metric) => metric.name === name);
    if (found.length > 0) return found;
    const known = [...new Set(all.map((metric) => metric.name))].join(", ");
    throw new Error(`${report.sets[0]?.name} has no figure "${name}"; it has ${known}`);
  });
}

/** The README with its sections, and the pages and pictures that they lead to; `templates` as for the page. */
export async function publish(root: string, readme: string, templates: string): Promise<Published[]> {
  const files: Published[] = [];
  const sections: string[] = [];
  for (const match of readme.matchAll(SECTION)) {
    const { name = "", columns = "", picture } = match.groups ?? {};
    const report = await loadReport([join(folder, `${name}.json`)], { cwd: root, force: false });
    const page = join(folder, `${name}.html`);
    files.push({ path: page, text: `${await renderAs("html", report, { templates })}\n` });
    const lines = [
      ...report.sets.map((set) => `${about(set).join("; ")}.`),
      "",
      ...figureTables(report, [columnsOf(report, columns.split(" "))]),
    ];
    if (picture !== undefined) {
      const plot = pictureOf(report, picture);
      const path = join(folder, `${name}.svg`);
      files.push({ path, text: `${await renderPicture(plot, templates)}\n` });
      lines.push(`<img src="${path}" alt="${plot.title}: ${plot.note}" width="520">`, "");
    }
    lines.push(`All of it: [${name}.json](${join(folder, `${name}.json`)}) and its [page](${page}).`, "");
    sections.push(lines.join("\n"));
  }
  const text = readme.replace(SECTION, (...parts) => {
    const { head, tail } = parts.at(-1) as { head: string; tail: string };
    return `${head}${sections.shift()}${tail}`;
  });
  return [...files, { path: "README.md", text }];
}

/** A result without the folders of the machine it came from. */
export function withoutFolders(result: unknown): unknown {
  if (typeof result === "string")
    return result.replace(/(^|[\s='"(:])\/(?:[^\s/'"]+\/)*([^\s/'"]+)/g, "$1$2");
  if (Array.isArray(result)) return result.map(withoutFolders);
  if (typeof result !== "object" || result === null) return result;
  return Object.fromEntries(Object.entries(result).map(([key, value]) => [key, withoutFolders(value)]));
}
