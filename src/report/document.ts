import { FACTS, type Report } from "../core/report/index.js";
import { findings } from "./findings.js";
import { figureRecords } from "./records.js";

/** The report as one JSON document: figures, findings, and the results themselves. */
export function reportDocument(report: Report): object {
  const { sets, unlike, changed } = report;
  const facts = (chosen: Report["unlike"]) =>
    chosen.map((fact) => ({
      field: fact.name,
      values: Object.fromEntries(sets.map((set) => [set.name, fact.read(set.result) ?? null])),
    }));
  return {
    kind: "kivi-report",
    version: 1,
    complete: sets.every((set) => set.result.complete),
    comparable: unlike.length === 0,
    differences: { unlike: facts(unlike), changed: facts(changed) },
    environment: facts(FACTS),
    figures: figureRecords(report),
    findings: findings(report).map(({ set, ...finding }) => ({ result: set?.name ?? null, ...finding })),
    results: sets.map(({ name, path, result }) => ({ name, path, result })),
  };
}
