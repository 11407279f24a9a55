/** The figures of the suite `concurrency`. */
import { runAtLimit } from "../core/bench/serving/index.js";
import { whole } from "./format.js";
import type { Metric } from "./metrics.js";

export const USERS_METRICS: readonly Metric[] = [
  {
    name: "users",
    load: "",
    title: "users within limits",
    unit: "users",
    relative: "ratio",
    read: ({ concurrency }) =>
      concurrency && {
        value: concurrency.users,
        text: concurrency.broken === null ? `${whole(concurrency.users)} or more` : whole(concurrency.users),
      },
  },
  ...(
    [
      ["TTFT", "ttftMs"],
      ["TPOT", "tpotMs"],
    ] as const
  ).map(
    ([title, field]): Metric => ({
      name: `users_${title.toLowerCase()}_p99_ms`,
      load: "",
      title: `their ${title} p99`,
      unit: "ms",
      read: ({ concurrency }) => {
        const run = concurrency && runAtLimit(concurrency);
        return run && { value: run[field].p99, text: whole(run[field].p99) };
      },
    }),
  ),
];
