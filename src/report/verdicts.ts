/** The verdicts of gates as text; what needs attention comes last, where a log ends. */
import { type GateReport, held } from "../core/gates/judge.js";
import type { Paint } from "./table.js";

export function renderVerdicts(report: GateReport, paint: Paint): string {
  const all = report.passed.length + report.failed.length + report.missing.length;
  const summary = `${report.passed.length} of ${all} gates passed`;
  return [
    ...report.passed.map(({ message }) => paint.quiet(`passed   ${message}`)),
    ...report.missing.map(({ message }) => paint.bad(`missing  ${message}`)),
    ...report.failed.map(({ message }) => paint.bad(`failed   ${message}`)),
    held(report) ? summary : paint.bad(summary),
  ].join("\n");
}
