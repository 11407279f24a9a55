/** The figures of the suite `fill`, and what must be known of one that proves little. */
import type { Cell } from "../core/bench/result.js";
import { figure, share } from "./format.js";
import type { Metric } from "./metrics.js";

type Fill = NonNullable<Cell["fill"]>;

/** Sequences end at whole blocks, and one block is never handed out. */
const FULL = 0.95;

export const FILL_METRICS: readonly Metric[] = [
  {
    name: "filled_tokens",
    load: "",
    title: "filled to",
    unit: "tokens",
    read: ({ fill }) =>
      fill && {
        value: fill.filledTokens,
        text: `${figure(fill.filledTokens)} (${share(fill.filledTokens / fill.tokens)})`,
      },
  },
  {
    name: "fill_preemptions",
    load: "",
    title: "preempted",
    unit: "count",
    read: ({ fill }) => fill && { value: fill.preemptions, text: String(fill.preemptions) },
  },
];

/** Why the cache was not shown to hold what vLLM counts; undefined where it was. */
export function unproven(fill: Fill): string | undefined {
  const { tokens, filledTokens, preemptions, sequences, sequencesLimit, longest } = fill;
  if (preemptions > 0) {
    return `vLLM counts ${figure(tokens)} tokens, but ${preemptions} sequences were thrown out of the cache before ${sequences} of at most ${longest} tokens were done.`;
  }
  if (filledTokens / tokens >= FULL) return undefined;
  if (sequences === sequencesLimit) {
    return `Only ${share(filledTokens / tokens)} of the cache was filled, by ${sequences} sequences of at most ${longest} tokens: raise --max-model-len or --max-num-seqs.`;
  }
  return `Only ${share(filledTokens / tokens)} of the cache was filled at once: sequences ended before all were there; raise --max-model-len or --max-batched-tokens.`;
}
