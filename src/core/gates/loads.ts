/** The loads that a metric has a figure for each of, named in brackets: `[4x1024+32]`, `[2]`. */
import type { MatrixConfig } from "../bench/config.js";
import type { Cell } from "../bench/result.js";
import { byRate, parseRate, rateName } from "../bench/serving/settings.js";
import { parseShape, shapeName } from "../bench/shapes.js";

export interface Loads {
  /** For error messages. */
  readonly example: string;
  /** Whether this is how such a load is written. */
  isName(text: string): boolean;
  measured(cells: readonly Cell[]): string[];
  planned(config: Pick<MatrixConfig, "shapes" | "serving">): string[];
}

export const SHAPES: Loads = {
  example: "[4x1024+32]",
  isName: (text) => parseShape(text) !== undefined,
  measured: (cells) => [
    ...new Set(cells.flatMap((cell) => cell.throughput?.map((load) => load.shape) ?? [])),
  ],
  planned: ({ shapes }) => shapes.map(shapeName),
};

export const RATES: Loads = {
  example: "[0.5] or [inf], in requests a second",
  isName: (text) => {
    const rate = parseRate(text);
    return rate !== undefined && rateName(rate) === text;
  },
  measured: (cells) =>
    [...new Set(cells.flatMap((cell) => cell.serve?.loads.map((load) => load.rate) ?? []))].sort(byRate),
  planned: ({ serving }) => serving.rates.map(rateName),
};
