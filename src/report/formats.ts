/** The formats of `kivi report`; each reporter is loaded only when it is asked for. */
import type { Report } from "../core/report/index.js";
import type { Paint } from "./table.js";

export const FORMATS = ["table", "markdown", "csv", "junit", "github", "html", "json"] as const;
export type Format = (typeof FORMATS)[number];

export interface View {
  readonly paint?: Paint | undefined;
  readonly columns?: number | undefined;
  /** Folder of the HTML page's own style and script. */
  readonly templates: string;
}

type Reporter = (report: Report, view: View) => Promise<string>;

const REPORTERS: Record<Format, Reporter> = {
  table: async (report, view) => (await import("./table.js")).renderReport(report, view.paint, view.columns),
  markdown: async (report) => (await import("./markdown.js")).renderMarkdown(report),
  csv: async (report) => (await import("./csv.js")).renderCsv(report),
  junit: async (report) => (await import("./junit.js")).renderJunit(report),
  github: async (report) => (await import("./github.js")).renderGithub(report),
  html: async (report, view) => (await import("./html/page.js")).renderPage(report, view.templates),
  json: async (report) => JSON.stringify((await import("./document.js")).reportDocument(report), null, 2),
};

/** The report as text without a line end. */
export async function renderAs(format: Format, report: Report, view: View): Promise<string> {
  return REPORTERS[format](report, view);
}
