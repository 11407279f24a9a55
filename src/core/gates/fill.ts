/** The figures of the suite `fill`. */
import type { Cell } from "../bench/result.js";
import { type Metric, metric, without } from "./metric.js";
import { counted } from "./reading.js";

type Fill = NonNullable<Cell["fill"]>;

function ofFill(read: (fill: Fill) => number): Metric["read"] {
  return (cell) => (cell.fill === undefined ? without(cell, "fill") : counted(read(cell.fill)));
}

export const FILL_METRICS: readonly Metric[] = [
  metric({
    name: "filled_tokens",
    meaning: "tokens that really were in the cache at one moment",
    suite: "fill",
    read: ofFill((fill) => fill.filledTokens),
  }),
  metric({
    name: "filled_share",
    meaning: "the same over what vLLM says that it holds, 0 to 1",
    suite: "fill",
    read: ofFill((fill) => fill.filledTokens / fill.tokens),
  }),
  metric({
    name: "fill_preemptions",
    meaning: "sequences that were thrown out of the cache while it was filled",
    suite: "fill",
    read: ofFill((fill) => fill.preemptions),
  }),
];
