/** A figure as a gate reads it: the number that is judged, and how far the samples behind it reach. */

export interface Found {
  readonly value: number;
  /** What the worst and the best sample alone would have given; equal to `value` for a figure without samples. */
  readonly low: number;
  readonly high: number;
  /** Undefined for a figure that is counted, not timed. */
  readonly samples?: number | undefined;
  /** What a reader must know to believe the figure. */
  readonly remarks: readonly string[];
}

/** Why there is no figure; no gate passes without one. */
export interface Missing {
  readonly missing: string;
}

export type Reading = Found | Missing;

export function isMissing(reading: Reading): reading is Missing {
  return "missing" in reading;
}

export function counted(value: number, remarks: readonly string[] = []): Found {
  return { value, low: value, high: value, remarks };
}

/** A rate of `work` tokens, with the rates that each sample's seconds give. */
export function timed(
  value: number,
  work: number,
  seconds: readonly number[],
  remarks: readonly string[],
): Found {
  // A decode time is the difference of two times: noise can make it zero or less, and the rate boundless.
  const rates = seconds.map((time) => (time > 0 ? work / time : Number.POSITIVE_INFINITY));
  return {
    value,
    low: Math.min(value, ...rates),
    high: Math.max(value, ...rates),
    samples: seconds.length,
    remarks,
  };
}

function fewest(a: Found, b: Found): number | undefined {
  if (a.samples === undefined || b.samples === undefined) return a.samples ?? b.samples;
  return Math.min(a.samples, b.samples);
}

/** `own` over `base`, where both are there and `base` is more than nothing. */
export function quotient(own: Reading, base: Reading): Reading {
  if (isMissing(own)) return own;
  if (isMissing(base)) return base;
  if (base.low <= 0) return { missing: "what it is compared with is not above 0" };
  return {
    value: own.value / base.value,
    low: own.low / base.high,
    high: own.high / base.low,
    samples: fewest(own, base),
    remarks: [...new Set([...own.remarks, ...base.remarks])],
  };
}

/** A quotient as a change in percent: above 0 is a rise. */
export function asRise(reading: Reading): Reading {
  if (isMissing(reading)) return reading;
  const percent = (times: number): number => 100 * (times - 1);
  const { value, low, high } = reading;
  return { ...reading, value: percent(value), low: percent(low), high: percent(high) };
}

/** The same change counted downwards: above 0 is a drop. */
export function asDrop(reading: Reading): Reading {
  const rise = asRise(reading);
  if (isMissing(rise)) return rise;
  // 0 - x, not -x, which makes -0 of no change.
  return { ...rise, value: 0 - rise.value, low: 0 - rise.high, high: 0 - rise.low };
}

/** Six digits, or as many as it takes to tell the value from the limit. */
export function exact(value: number, limit?: number): string {
  const short = Number(value.toPrecision(6));
  return String(short === limit ? value : short);
}
