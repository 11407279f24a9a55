/** The page's plots in their order, each with its words; a plot with nothing to compare is left out. */
import type { Spec } from "vega";
import type { Report } from "../../core/report/index.js";
import { whole } from "../format.js";
import {
  capacityBars,
  qualityPoints,
  type Serving,
  type Speed,
  servings,
  speeds,
  usersBars,
} from "./data.js";
import { barSpec, curveSpec, qualitySpec, servingSpec } from "./spec.js";

export interface Plot {
  readonly title: string;
  readonly note: string;
  readonly spec: Spec;
}

function speedPlot(speed: Speed): Plot {
  const { rate, context, batches } = speed;
  const prompts = `prompts of ${whole(context)} tokens`;
  if (batches.length === 1) {
    const title = `${rate === "decode" ? "Decode" : "Prefill"} throughput`;
    const note = `tokens/s, ${batches[0]} ${prompts} (times the baseline's)`;
    return { title, note, spec: barSpec(speed.bars, `${title}, ${note}`) };
  }
  const title = `${rate === "decode" ? "Decode" : "Prefill"} throughput against batch`;
  return { title, note: prompts, spec: curveSpec(speed, `${title}, ${prompts}`) };
}

function servingPlot(serving: Serving): Plot {
  const { title, unit } = serving;
  const note = `${unit}, against the rate at which requests arrive`;
  return { title, note, spec: servingSpec(serving, `${title}, ${note}`) };
}

export function plots(report: Report): Plot[] {
  const bars = capacityBars(report);
  const points = qualityPoints(report);
  const capacity = {
    title: "Tokens held",
    note: "vLLM's own count in the same memory, staging paid (times the baseline's)",
  };
  const users = usersBars(report);
  const bearing = {
    title: "Users within limits",
    note: "the most that kept every limit at the 99th percentile (times the baseline's)",
  };
  const quality = {
    title: "Quality against bytes",
    note: "lower and further left is better; the dashed line joins what no other cache beats in both",
  };
  return [
    ...(bars.length === 0 ? [] : [{ ...capacity, spec: barSpec(bars, capacity.title) }]),
    ...(new Set(points.map((point) => point.cache)).size < 2
      ? []
      : [{ ...quality, spec: qualitySpec(points, quality.title) }]),
    ...speeds(report).map(speedPlot),
    ...servings(report).map(servingPlot),
    ...(users.length === 0 ? [] : [{ ...bearing, spec: barSpec(users, bearing.title) }]),
  ];
}
