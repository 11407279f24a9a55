/** The figures of the suite `serve`, a list for each request rate. */
import type { Cell } from "../core/bench/result.js";
import { byRate, median, SERVE_FIGURES, type ServeFigure, samples } from "../core/bench/serving/index.js";
import { figure, whole } from "./format.js";
import type { Metric } from "./metrics.js";
import { differTooMuch } from "./noise.js";

/** Those in tables; the others are in the formats for machines. */
const TITLES: Readonly<Record<string, string>> = {
  requests_per_second: "req/s",
  goodput: "goodput",
  output_tokens_per_second: "tok/s",
  ttft_p50: "TTFT p50",
  ttft_p99: "TTFT p99",
  tpot_p50: "TPOT p50",
  itl_p99: "ITL p99",
  preemptions: "preempted",
};

/** What the table's heads leave out. */
export const SERVE_NOTE =
  "At: requests/s that arrive, inf is all at once. TTFT, TPOT and ITL in ms, by vLLM's own client.";

export function serveRates(cells: readonly Cell[]): string[] {
  return [...new Set(cells.flatMap((cell) => cell.serve?.loads.map((load) => load.rate) ?? []))].sort(byRate);
}

function serveMetric(about: ServeFigure, rate: string): Metric {
  const title = TITLES[about.name];
  const isRate = about.unit === "requests/s" || about.unit === "tokens/s";
  return {
    name: `serve_${about.name}${about.unit === "ms" ? "_ms" : ""}`,
    load: rate,
    title: `${title ?? about.name} at ${rate}`,
    unit: about.unit === "count" ? "" : about.unit,
    ...(isRate ? { relative: "ratio" as const } : {}),
    ...(title === undefined ? { forMachines: true as const } : {}),
    read: ({ serve }) => {
      const values = serve && samples(serve, rate, about);
      if (values === undefined) return undefined;
      const value = median(values);
      if (about.unit === "count") return { value, text: whole(value) };
      const noisy = values.length > 1 && differTooMuch(values);
      return { value, text: `${noisy ? "~" : ""}${figure(value)}` };
    },
  };
}

/** A list for each rate. A figure that no cell has (goodput without limits) is left out, a column of noughts of tables. */
export function serveSections(cells: readonly Cell[]): Metric[][] {
  return serveRates(cells).map((rate) =>
    SERVE_FIGURES.flatMap((about): Metric[] => {
      const metric = serveMetric(about, rate);
      const values = cells.flatMap((cell) => metric.read(cell)?.value ?? []);
      if (values.length === 0) return [];
      const dull = about.unit === "count" && values.every((value) => value === 0);
      return [dull ? { ...metric, forMachines: true } : metric];
    }),
  );
}
