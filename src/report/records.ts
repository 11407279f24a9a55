/** One record for each figure: the form that scripts, spreadsheets and data frames take. */
import type { Report } from "../core/report/index.js";
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
}

export function figureRecords({ sets }: Report): FigureRecord[] {
  const metrics = metricSections(sets.map((set) => set.result)).flat();
  const nothing = { metric: null, load: null, value: null, unit: null, ratioToBaseline: null };
  const measured = cellRows(sets).flatMap(({ set, cell, base }): FigureRecord[] => {
    const about = { result: set.name, cache: cell.cache, status: cell.status, reason: cell.reason ?? null };
    if (cell.status !== "ok") return [{ ...about, ...nothing }];
    return metrics.flatMap((metric) => {
      const reading = metric.read(cell);
      if (reading === undefined) return [];
      const other = base === undefined ? undefined : metric.read(base)?.value;
      return [
        {
          ...about,
          metric: metric.name,
          load: metric.load === "" ? null : metric.load,
          value: reading.value,
          unit: metric.unit === "" ? null : metric.unit,
          ratioToBaseline: reading.value !== null && other ? reading.value / other : null,
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
