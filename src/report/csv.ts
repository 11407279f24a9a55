import type { Report } from "../core/report/index.js";
import { FACTS } from "../core/report/index.js";
import { factText } from "./about.js";
import { csvField } from "./escape.js";
import { figureRecords } from "./records.js";

/** Facts that a row carries, so that tables of several runs can be put under each other. */
const CARRIED = ["model", "device", "vLLM", "vllm-kivi", "started"];

/** One line for each figure, with a head; a cell without figures has one line too. */
export function renderCsv(report: Report): string {
  const facts = FACTS.filter((fact) => CARRIED.includes(fact.name));
  const head = [
    "result",
    "complete",
    "comparable",
    ...facts.map((fact) => fact.name.toLowerCase()),
    "cache",
    "status",
    "reason",
    "metric",
    "load",
    "value",
    "unit",
    "ratio_to_baseline",
    "ratio_low",
    "ratio_high",
  ];
  const rows = figureRecords(report).map((record) => {
    const set = report.sets.find(({ name }) => name === record.result);
    if (set === undefined) throw new TypeError(`no result ${record.result}`);
    const { result, cache, status, reason, metric, load, value, unit, ratioToBaseline, ratioLow, ratioHigh } =
      record;
    return [
      result,
      set.result.complete,
      report.unlike.length === 0,
      ...facts.map((fact) => factText(fact, set)),
      cache,
      status,
      reason,
      metric,
      load,
      value,
      unit,
      ratioToBaseline,
      ratioLow,
      ratioHigh,
    ];
  });
  return [head, ...rows].map((row) => row.map(csvField).join(",")).join("\n");
}
