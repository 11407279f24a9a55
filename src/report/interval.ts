/** How far a ratio to the baseline reaches with the samples behind it; the same range that gates call noise. */
import type { Cell } from "../core/bench/result.js";
import { METRICS } from "../core/gates/index.js";
import { isMissing } from "../core/gates/reading.js";
import type { Metric } from "./metrics.js";
import { perplexityInterval } from "./paired.js";

export const INTERVAL_NOTE = "[low-high]: how far the ratio reaches over the samples of both.";

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** `decode_tokens_per_second` has the gate `decode_ratio`, `serve_ttft_p99_ms` has `serve_ttft_p99_ratio`. */
function ratioMetric({ name }: Metric) {
  const names = [name.replace("_tokens_per_second", "_ratio"), `${name.replace(/_ms$/, "")}_ratio`];
  return METRICS.find((metric) => metric.relative && names.includes(metric.name));
}

/**
 * Timed figures: from the slowest of one over the fastest of the other to the reverse. Perplexity: of the windows that both
 * scored. Undefined where one sample says nothing of noise.
 */
export function ratioInterval(metric: Metric, cell: Cell, base: Cell | undefined): Interval | undefined {
  if (base === undefined || cell === base) return undefined;
  if (metric.name === "perplexity") return perplexityInterval(cell, base);
  const found = ratioMetric(metric)?.read(cell, base, metric.load);
  if (found === undefined || isMissing(found) || (found.samples ?? 1) < 2) return undefined;
  return { low: found.low, high: found.high };
}

/** Whether the samples leave open which of the two is more. */
export function isWithinNoise({ low, high }: Interval): boolean {
  return low <= 1 && high >= 1;
}
