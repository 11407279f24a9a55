/** One record for each figure: the form that scripts, spreadsheets and data frames take. */
import type { Report } from "../core/report/index.js";
import { ratioInterval } from "./interval.js";
import { metricSections } from "./metrics.js";
import { cellRows, notMeasured } from "./rows.js";

export interface FigureRecord {
  readonly result: string;
  readonly cache: string;
  readonly status: string;
  readonly reason: string | null;
  /** Null in the one record of a cell without figures. */
  readonly metric: string | null;
  readonly load: string | null;
  readonly value: number | null;
  readonly unit: string | null;
  /** The value over that of the baseline in the same result. */
  readonly ratioToBaseline: number | null;
  /** What the samples of both, at their least favourable, make of the ratio; null where there is one of each, or none. */
  readonly ratioLow: number | null;
  readonly ratioHigh: number | null;
}

const NO_RATIO = { ratioToBaseline: null, ratioLow: null, ratioHigh: null };

/** A rate of noise has no upper end, and JSON no infinity. */
function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}

export function figureRecords({ sets }: Report): FigureRecord[] {
  const metrics = metricSections(sets.map((set) => set.result)).flat();
  const nothing = { metric: null, load: null, value: null, unit: null, ...NO_RATIO };
  const measured = cellRows(sets).flatMap(({ set, cell, base }): FigureRecord[] => {
    const about = { result: set.name, cache: cell.cache, status: cell.status, reason: cell.reason ?? null };
    if (cell.status !== "ok") return [{ ...about, ...nothing }];
    return metrics.flatMap((metric) => {
      const reading = metric.read(cell);
      if (reading === undefined) return [];
      const other = base === undefined ? undefined : metric.read(base)?.value;
      const interval = ratioInterval(metric, cell, base);
      return [
        {
          ...about,
          metric: metric.name,
          load: metric.load === "" ? null : metric.load,
          value: reading.value,
          unit: metric.unit === "" ? null : metric.unit,
          ratioToBaseline: reading.value !== null && other ? reading.value / other : null,
          ratioLow: finite(interval?.low),
          ratioHigh: finite(interval?.high),
        },
      ];
    });
  });
  const missing = sets.flatMap((set) =>
    notMeasured(set.result).map((cache) => ({
      result: set.name,
      cache,
      status: "not measured",
      reason: null,
      ...nothing,
    })),
  );
  return [...measured, ...missing];
}
