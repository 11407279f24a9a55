/** The figures of the suite `concurrency`. */
import type { Cell } from "../bench/result.js";
import { runAtLimit } from "../bench/serving/figures.js";
import { againstBase, type Metric, metric, without } from "./metric.js";
import { counted } from "./reading.js";

const users: Metric["read"] = (cell) => {
  if (cell.concurrency === undefined) return without(cell, "concurrency");
  const { users: held, broken } = cell.concurrency;
  return counted(held, broken === null ? [`${cell.cache} kept the limits with all that were tried`] : []);
};

function conditions({ concurrency }: Cell): Readonly<Record<string, unknown>> {
  if (concurrency === undefined) return {};
  const { inputTokens, outputTokens, requests, most, slo } = concurrency;
  return {
    inputTokens,
    outputTokens,
    requests,
    most,
    ttftMs: slo.ttftMs,
    tpotMs: slo.tpotMs,
    e2elMs: slo.e2elMs,
  };
}

/** Of the run with the most users that kept the limits. */
function atLimit(latency: "ttftMs" | "tpotMs"): Metric["read"] {
  return (cell) => {
    const run = cell.concurrency && runAtLimit(cell.concurrency);
    return run === undefined
      ? without(cell, "a number of users that keeps the limits")
      : counted(run[latency].p99);
  };
}

export const USERS_METRICS: readonly Metric[] = [
  metric({
    name: "users",
    meaning: "users that a server bears within the limits of slo:",
    suite: "concurrency",
    conditions,
    read: users,
  }),
  metric({
    name: "users_ratio",
    meaning: "the same over that of bf16",
    suite: "concurrency",
    relative: true,
    conditions,
    read: againstBase(users),
  }),
  metric({
    name: "users_ttft_p99_ms",
    meaning: "99th percentile of time to first token, in ms, with that many users",
    suite: "concurrency",
    conditions,
    read: atLimit("ttftMs"),
  }),
  metric({
    name: "users_tpot_p99_ms",
    meaning: "99th percentile of time per output token after the first, in ms, with that many users",
    suite: "concurrency",
    conditions,
    read: atLimit("tpotMs"),
  }),
];
