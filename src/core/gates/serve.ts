/** The figures of the suite `serve`, each for every request rate, and most also over that of bf16. */
import type { Cell } from "../bench/result.js";
import { median, SERVE_FIGURES, type ServeFigure, samples } from "../bench/serving/figures.js";
import { RATES } from "./loads.js";
import { againstBase, type Metric, metric, without } from "./metric.js";

function reader(figure: ServeFigure): Metric["read"] {
  return (cell, _, rate) => {
    const values = cell.serve && samples(cell.serve, rate, figure);
    if (values === undefined) return without(cell, `serve_${figure.name} at ${rate} requests/s`);
    return {
      value: median(values),
      low: Math.min(...values),
      high: Math.max(...values),
      samples: values.length,
      remarks: [],
    };
  };
}

function conditions({ serve }: Cell): Readonly<Record<string, unknown>> {
  if (serve === undefined) return {};
  const { prompts, inputTokens, outputTokens, seed } = serve;
  return { prompts, inputTokens, outputTokens, seed };
}

/** Goodput is against limits. */
function withLimits({ serve }: Cell): Readonly<Record<string, unknown>> {
  const { ttftMs, tpotMs, e2elMs } = serve?.slo ?? {};
  return { ttftMs, tpotMs, e2elMs };
}

export const SERVE_METRICS: readonly Metric[] = SERVE_FIGURES.flatMap((figure): Metric[] => {
  const read = reader(figure);
  const about = {
    suite: "serve",
    loads: RATES,
    conditions: (cell: Cell) => ({
      ...conditions(cell),
      ...(figure.name === "goodput" ? withLimits(cell) : {}),
    }),
  } as const;
  const unit = figure.unit === "ms" ? "_ms" : "";
  const plain = metric({
    ...about,
    name: `serve_${figure.name}${unit}`,
    meaning: `${figure.meaning}${unit === "" ? "" : ", in ms"}, for each rate`,
    read,
  });
  // Most caches have none: their quotient would be of nothing.
  if (figure.unit === "count") return [plain];
  return [
    plain,
    metric({
      ...about,
      name: `serve_${figure.name}_ratio`,
      meaning: "the same over that of bf16, for each rate",
      relative: true,
      read: againstBase(read),
    }),
  ];
});
