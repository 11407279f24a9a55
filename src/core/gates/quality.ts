/** The figures of the quality suite. */
import { BASELINE } from "../bench/caches.js";
import type { Cell } from "../bench/result.js";
import { type Metric, metric, without } from "./metric.js";
import { counted } from "./reading.js";

type Quality = NonNullable<Cell["quality"]>;

/** Read from a cell that was compared with the baseline's answers, which must be those of the baseline beside it. */
function compared(read: (quality: Quality) => number | undefined): Metric["read"] {
  return (cell, base) => {
    const value = cell.quality && read(cell.quality);
    if (cell.quality === undefined || value === undefined) return without(cell, "quality");
    if (cell.quality.reference.sha256 !== base.quality?.reference.sha256) {
      return { missing: `${cell.cache} was compared with other answers than those of this ${BASELINE}` };
    }
    return counted(value);
  };
}

function conditions(sizes: (quality: Quality) => Readonly<Record<string, unknown>>): Metric["conditions"] {
  return ({ quality }) =>
    quality === undefined ? {} : { textSha256: quality.textSha256, seed: quality.seed, ...sizes(quality) };
}

const scored = conditions(({ divergence: { window, windows, topLogprobs } }) => ({
  window,
  windows,
  topLogprobs,
}));

const answered = conditions(({ greedy: { prompts, promptTokens, newTokens } }) => ({
  prompts,
  promptTokens,
  newTokens,
}));

const asked = conditions(({ needle }) => ({
  needleTrials: needle.trials,
  needleGrid: needle.grid.map(({ length, depth }) => `${length}@${depth}`).join(),
}));

const called = conditions(({ calls }) => ({ calls: calls?.calls, callContext: calls?.context }));

function ofCalls(read: (calls: NonNullable<Quality["calls"]>) => number): Metric["read"] {
  return (cell) =>
    cell.quality?.calls === undefined ? without(cell, "tool calls") : counted(read(cell.quality.calls));
}

export const QUALITY_METRICS: readonly Metric[] = [
  metric({
    name: "kl_mean",
    meaning: "mean KL divergence of next-token distributions from those of bf16, in nats",
    suite: "quality",
    relative: true,
    conditions: scored,
    read: compared(({ divergence }) => divergence.klMean),
  }),
  metric({
    name: "kl_p99",
    meaning: "99th percentile of the same over the scored tokens",
    suite: "quality",
    relative: true,
    conditions: scored,
    read: compared(({ divergence }) => divergence.klP99),
  }),
  metric({
    name: "top1_agreement",
    meaning: "share of scored tokens whose likeliest next token is that of bf16, 0 to 1",
    suite: "quality",
    relative: true,
    conditions: scored,
    read: compared(({ divergence }) => divergence.top1Agreement),
  }),
  metric({
    name: "greedy_prefix_tokens",
    meaning: "mean tokens of a greedy answer before it leaves that of bf16",
    suite: "quality",
    relative: true,
    conditions: answered,
    read: compared(({ greedy }) => greedy.prefixTokens),
  }),
  metric({
    name: "greedy_identical",
    meaning: "share of greedy answers that are those of bf16 to the end, 0 to 1",
    suite: "quality",
    relative: true,
    conditions: answered,
    read: compared(({ greedy }) => greedy.identical),
  }),
  metric({
    name: "needle_accuracy",
    meaning: "share of pass keys found in a haystack, 0 to 1",
    suite: "quality",
    conditions: asked,
    read: (cell) =>
      cell.quality === undefined ? without(cell, "quality") : counted(cell.quality.needle.accuracy),
  }),
  metric({
    name: "call_json",
    meaning: "share of tool calls that hold a JSON object, 0 to 1",
    suite: "quality",
    conditions: called,
    read: ofCalls((calls) => calls.json),
  }),
  metric({
    name: "call_valid",
    meaning: "share of tool calls that are JSON of the tool's schema, 0 to 1",
    suite: "quality",
    conditions: called,
    read: ofCalls((calls) => calls.valid),
  }),
  metric({
    name: "call_correct",
    meaning: "share of tool calls with the very arguments that were asked for, 0 to 1",
    suite: "quality",
    conditions: called,
    read: ofCalls((calls) => calls.correct),
  }),
];
