import type { Report } from "../core/report/index.js";
import { annotation, annotationProperty } from "./escape.js";
import { findings } from "./findings.js";

/** Workflow commands of GitHub Actions: an annotation for each finding, and a notice where there is none. */
export function renderGithub(report: Report): string {
  const several = report.sets.length > 1;
  const lines = findings(report).map(({ level, title, message, set }) => {
    const where = several && set !== undefined ? `${set.name}: ` : "";
    return `::${level} title=${annotationProperty(`kivi bench: ${where}${title}`)}::${annotation(message)}`;
  });
  if (lines.length > 0) return lines.join("\n");
  const cells = report.sets.reduce((sum, set) => sum + set.result.cells.length, 0);
  return `::notice title=kivi bench::${cells} cells measured, nothing to report`;
}
