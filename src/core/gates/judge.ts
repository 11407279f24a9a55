/** Judges a result by its gates: a pure function of saved figures. */
import type { CacheName } from "../bench/caches.js";
import type { BenchResult } from "../bench/result.js";
import { readGate, type ShapedReading } from "./figures.js";
import type { Gate, Operator } from "./parse.js";
import { exact, type Found, isMissing, type Missing } from "./reading.js";

export interface Verdict {
  readonly gate: string;
  readonly cache: CacheName;
  readonly metric: string;
  /** The load whose figure was judged. */
  readonly shape: string | null;
  readonly operator: Operator;
  readonly limit: number;
  /** The figure that was judged, in percent for a drop or rise; null where there is none. */
  readonly value: number | null;
  /** The samples alone would allow the other verdict. */
  readonly withinNoise: boolean;
  /** All of it in one line. */
  readonly message: string;
}

export interface GateReport {
  readonly passed: readonly Verdict[];
  readonly failed: readonly Verdict[];
  /** There was no figure to judge; as bad as failed. */
  readonly missing: readonly Verdict[];
}

/** True when every gate was judged and none failed. */
export function held(report: GateReport): boolean {
  return report.failed.length === 0 && report.missing.length === 0;
}

const BREACHED: Record<Operator, (value: number, limit: number) => boolean> = {
  "<": (value, limit) => value < limit,
  "<=": (value, limit) => value <= limit,
  ">": (value, limit) => value > limit,
  ">=": (value, limit) => value >= limit,
};

export function judge(result: BenchResult, gates: readonly Gate[], baseline?: BenchResult): GateReport {
  const report = { passed: [] as Verdict[], failed: [] as Verdict[], missing: [] as Verdict[] };
  for (const gate of gates) {
    const { status, verdict } = judgeOne(result, gate, baseline);
    report[status].push(verdict);
  }
  return report;
}

function judgeOne(
  result: BenchResult,
  gate: Gate,
  baseline: BenchResult | undefined,
): { status: keyof GateReport; verdict: Verdict } {
  const about = {
    gate: gate.text,
    cache: gate.cache,
    metric: gate.metric.name,
    operator: gate.operator,
    limit: gate.limit,
  };
  const readings = readGate(result, gate, baseline);
  const gap = readings.find((one): one is ShapedReading & { reading: Missing } => isMissing(one.reading));
  if (gap !== undefined) {
    const shape = gap.shape ?? null;
    const message = `${gate.text}: ${gap.reading.missing}`;
    return { status: "missing", verdict: { ...about, shape, value: null, withinNoise: false, message } };
  }
  const found = readings as readonly { shape: string | undefined; reading: Found }[];
  const worst = found.reduce((a, b) => (isWorse(b.reading, a.reading, gate.operator) ? b : a));
  const { value, low, high } = worst.reading;
  const breached = BREACHED[gate.operator](value, gate.limit);
  const withinNoise =
    BREACHED[gate.operator](low, gate.limit) !== breached ||
    BREACHED[gate.operator](high, gate.limit) !== breached;
  const others = gate.shape === undefined && found.length > 1 ? `, the worst of ${found.length} loads` : "";
  const where = worst.shape === undefined ? "" : ` under ${worst.shape}${others}`;
  const unit = gate.change === undefined ? "" : " %";
  const remarks = [
    ...(withinNoise ? [noise(worst.reading, gate.limit, unit)] : []),
    ...(worst.reading.samples === 1 ? ["one sample, so its noise is not known"] : []),
    ...worst.reading.remarks,
  ];
  const words = remarks.length === 0 ? "" : ` (${remarks.join("; ")})`;
  const message = `${gate.text}: found ${exact(value, gate.limit)}${unit}${where}${words}`;
  return {
    status: breached ? "failed" : "passed",
    verdict: { ...about, shape: worst.shape ?? null, value, withinNoise, message },
  };
}

/** Nearer to a breach: for `<` the lower one. */
function isWorse(a: Found, b: Found, operator: Operator): boolean {
  return operator.startsWith("<") ? a.value < b.value : a.value > b.value;
}

function noise({ low, high }: Found, limit: number, unit: string): string {
  const end = (value: number): string =>
    Number.isFinite(value) ? `${exact(value, limit)}${unit}` : "no end";
  return `within noise: its samples reach from ${end(low)} to ${end(high)}`;
}
