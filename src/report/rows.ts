/** The rows of a table over one result or several: each cache once for each set, sets side by side. */
import { BASELINE } from "../core/bench/caches.js";
import type { BenchResult, Cell } from "../core/bench/result.js";
import type { ResultSet } from "../core/report/index.js";

export interface CellRow {
  readonly set: ResultSet;
  readonly cell: Cell;
  /** The cell of the same set that ratios are to; undefined where it did not run. */
  readonly base: Cell | undefined;
}

export function baseline(result: BenchResult): Cell | undefined {
  return result.cells.find((cell) => cell.cache === BASELINE && cell.status === "ok");
}

export function cellRows(sets: readonly ResultSet[]): CellRow[] {
  const caches = new Set(sets.flatMap(({ result }) => result.cells.map((cell) => cell.cache)));
  return [...caches].flatMap((cache) =>
    sets.flatMap((set) => {
      const cell = set.result.cells.find((one) => one.cache === cache);
      return cell === undefined ? [] : [{ set, cell, base: baseline(set.result) }];
    }),
  );
}

/** Caches that were planned and have no cell. */
export function notMeasured(result: BenchResult): string[] {
  return result.planned.filter((cache) => !result.cells.some((cell) => cell.cache === cache));
}

/** What stands in a row of a cell without figures. */
export function trouble(cell: Cell): string {
  return `${cell.status}: ${cell.reason ?? "no reason given"}`;
}
