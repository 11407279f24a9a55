/** The figures of the quality suite; those against the baseline's answers are not in the baseline's own cell. */
import type { Cell } from "../core/bench/result.js";
import { share } from "./format.js";
import type { Metric, Reading } from "./metrics.js";

type Quality = NonNullable<Cell["quality"]>;

function reader(
  value: (quality: Quality) => number | undefined,
  text: (value: number, quality: Quality) => string,
): Metric["read"] {
  return ({ quality }): Reading | undefined => {
    const found = quality && value(quality);
    return quality === undefined || found === undefined
      ? undefined
      : { value: found, text: text(found, quality) };
  };
}

const nats = (value: number): string => value.toPrecision(3);

export const QUALITY_METRICS: readonly Metric[] = [
  {
    name: "kl_mean",
    load: "",
    title: "KL mean",
    unit: "nats",
    read: reader(({ divergence }) => divergence.klMean, nats),
  },
  {
    name: "kl_p99",
    load: "",
    title: "KL p99",
    unit: "nats",
    read: reader(({ divergence }) => divergence.klP99, nats),
  },
  {
    name: "top1_agreement",
    load: "",
    title: "top-1 agreement",
    unit: "",
    read: reader(({ divergence }) => divergence.top1Agreement, share),
  },
  {
    name: "greedy_prefix_tokens",
    load: "",
    title: "greedy prefix",
    unit: "tokens",
    read: reader(
      ({ greedy }) => greedy.prefixTokens,
      (value, { greedy }) => `${value.toFixed(1)} of ${greedy.newTokens}`,
    ),
  },
  {
    name: "greedy_identical",
    load: "",
    title: "greedy identical",
    unit: "",
    read: reader(({ greedy }) => greedy.identical, share),
  },
  {
    name: "needle_accuracy",
    load: "",
    title: "needle accuracy",
    unit: "",
    read: reader(({ needle }) => needle.accuracy, share),
  },
  {
    name: "call_json",
    load: "",
    title: "calls JSON",
    unit: "",
    read: reader(({ calls }) => calls?.json, share),
  },
  {
    name: "call_valid",
    load: "",
    title: "calls valid",
    unit: "",
    read: reader(({ calls }) => calls?.valid, share),
  },
  {
    name: "call_correct",
    load: "",
    title: "calls correct",
    unit: "",
    read: reader(({ calls }) => calls?.correct, share),
  },
];
