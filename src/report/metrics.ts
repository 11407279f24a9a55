/** The figures of a cell, one list for all reporters: name, unit, words, and how one stands to the baseline's. */
import type { BenchResult, Cell } from "../core/bench/result.js";
import { FILL_METRICS } from "./fill.js";
import { bytes, figure, percent, ratio, whole } from "./format.js";
import { type Interval, isWithinNoise, ratioInterval } from "./interval.js";
import { lmEvalSections } from "./lm-eval.js";
import { differTooMuch } from "./noise.js";
import { QUALITY_METRICS } from "./quality.js";
import { serveSections } from "./serve.js";
import { USERS_METRICS } from "./users.js";

export interface Reading {
  /** Null where the engine had no figure: measured, but nothing to divide by. */
  readonly value: number | null;
  readonly text: string;
}

export interface Metric {
  /** As scripts and gates know it (core/gates/metrics.ts). */
  readonly name: string;
  /** Load or sequence length it was measured at; empty where there is none. */
  readonly load: string;
  readonly title: string;
  readonly unit: string;
  /** How a cell's figure stands to the baseline's in words; left out where that says nothing. */
  readonly relative?: "ratio" | "percent";
  /** Left out of tables, which would be too wide with it. */
  readonly forMachines?: true;
  /** Undefined where it was not measured. */
  read(cell: Cell): Reading | undefined;
}

function capacityMetrics(contexts: readonly number[]): Metric[] {
  return [
    {
      name: "bytes_per_token",
      load: "",
      title: "bytes/token",
      unit: "bytes",
      relative: "ratio",
      read: ({ capacity }) =>
        capacity && { value: capacity.bytesPerToken, text: figure(capacity.bytesPerToken) },
    },
    {
      name: "capacity_tokens",
      load: "",
      title: "tokens held",
      unit: "tokens",
      relative: "ratio",
      read: ({ capacity }) => capacity && { value: capacity.tokens, text: figure(capacity.tokens) },
    },
    {
      name: "concurrency",
      load: contexts.join("/"),
      title: `seqs of ${contexts.map(whole).join("/")}`,
      unit: "sequences",
      read: ({ capacity }) => capacity && { value: capacity.concurrency, text: figure(capacity.concurrency) },
    },
    {
      name: "staging_bytes",
      load: "",
      title: "staging",
      unit: "bytes",
      read: ({ capacity }) =>
        capacity && {
          value: capacity.stagingBytes,
          text: capacity.stagingBytes === 0 ? "-" : bytes(capacity.stagingBytes),
        },
    },
  ];
}

export type Load = NonNullable<Cell["throughput"]>[number];

interface Rate {
  readonly name: "prefill" | "decode";
  value(load: Load): number | null;
  seconds(sample: Load["samples"][number]): number;
}

export const RATES: readonly Rate[] = [
  {
    name: "prefill",
    value: (load) => load.prefillTokensPerSecond,
    seconds: (sample) => sample.prefillSeconds,
  },
  {
    name: "decode",
    value: (load) => load.decodeTokensPerSecond,
    seconds: (sample) => sample.totalSeconds - sample.prefillSeconds,
  },
];

export function isNoisy(load: Load, rate: Rate): boolean {
  return differTooMuch(load.samples.map(rate.seconds));
}

function throughputMetrics(shape: string): Metric[] {
  return RATES.map((rate) => ({
    name: `${rate.name}_tokens_per_second`,
    load: shape,
    title: `${rate.name} ${shape}`,
    unit: "tokens/s",
    relative: "ratio" as const,
    read: (cell: Cell) => {
      const load = cell.throughput?.find((entry) => entry.shape === shape);
      if (load === undefined) return undefined;
      const value = rate.value(load);
      const text = value === null ? "none" : figure(value);
      return { value, text: `${isNoisy(load, rate) ? "~" : ""}${text}${load.fits ? "" : "*"}` };
    },
  }));
}

const perplexityMetric: Metric = {
  name: "perplexity",
  load: "",
  title: "perplexity",
  unit: "",
  relative: "percent",
  read: ({ perplexity }) =>
    perplexity && { value: perplexity.perplexity, text: perplexity.perplexity.toFixed(3) },
};

/** The metrics that results have between them, a list for each suite and load. */
export function metricSections(results: readonly BenchResult[]): Metric[][] {
  const cells = results.flatMap((result) => result.cells.filter((cell) => cell.status === "ok"));
  const contexts = new Set(cells.flatMap((cell) => cell.capacity?.context ?? []));
  const shapes = new Set(cells.flatMap((cell) => (cell.throughput ?? []).map((load) => load.shape)));
  return [
    ...(contexts.size > 0 ? [capacityMetrics([...contexts])] : []),
    ...(cells.some((cell) => cell.fill) ? [[...FILL_METRICS]] : []),
    ...[...shapes].map(throughputMetrics),
    ...(cells.some((cell) => cell.perplexity) ? [[perplexityMetric]] : []),
    // Earlier versions asked for less.
    ...(cells.some((cell) => cell.quality)
      ? [QUALITY_METRICS.filter((metric) => cells.some((cell) => metric.read(cell) !== undefined))]
      : []),
    ...lmEvalSections(cells),
    ...serveSections(cells),
    ...(cells.some((cell) => cell.concurrency) ? [[...USERS_METRICS]] : []),
  ];
}

/** Those of them that people read. */
export function tableSections(results: readonly BenchResult[]): Metric[][] {
  return metricSections(results).map((section) => section.filter((metric) => !metric.forMachines));
}

/** A cell's standing to the baseline in words; empty where there is none, or it is 0. The baseline differs from itself by nothing. */
export function standing(metric: Metric, cell: Cell, base: Cell | undefined): string {
  const own = metric.read(cell)?.value;
  const other = base && metric.read(base)?.value;
  if (own == null || other == null || other === 0) return "";
  if (metric.relative === undefined || (metric.relative === "percent" && cell === base)) return "";
  const words = metric.relative === "ratio" ? ratio(own, other) : percent(own, other);
  const interval = ratioInterval(metric, cell, base);
  if (interval === undefined) return words;
  const reach = metric.relative === "ratio" ? ratioReach(interval) : percentReach(interval);
  return `${isWithinNoise(interval) ? "within noise" : words} [${reach}]`;
}

function ratioReach({ low, high }: Interval): string {
  return [low, high].map((end) => (Number.isFinite(end) ? end.toFixed(2) : "no end")).join("-");
}

function percentReach({ low, high }: Interval): string {
  return `${percent(low, 1).replace(" %", "")} to ${percent(high, 1)}`;
}
