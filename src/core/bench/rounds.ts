/** Timed suites once more for every cache, in turn: what drifts on a machine then falls on all of them. */
import type { Suite } from "./config.js";
import type { Cell } from "./result.js";
import { median } from "./serving/index.js";

/** Of these, another round gives more samples; the others count, or give the same answer again. */
export const TIMED: readonly Suite[] = ["throughput", "serve"];

/** There and back again, so that no cache is always the first or the last. */
export function inRound<T>(items: readonly T[], round: number): readonly T[] {
  return round % 2 === 0 ? items : [...items].reverse();
}

type Load = NonNullable<Cell["throughput"]>[number];

function mergeLoad(load: Load, later: Load | undefined): Load {
  if (later === undefined) return load;
  const samples = [...load.samples, ...later.samples];
  const prefill = median(samples.map((sample) => sample.prefillSeconds));
  // As bench/kivi_bench/throughput.py: from the medians of both times.
  const decode = median(samples.map((sample) => sample.totalSeconds)) - prefill;
  const busier = (later.host?.load ?? 0) > (load.host?.load ?? 0) ? later : load;
  return {
    ...load,
    ...(busier.host && { host: busier.host }),
    samples,
    prefillTokensPerSecond: (load.batch * load.context) / prefill,
    decodeTokensPerSecond: decode > 0 ? (load.batch * load.new) / decode : null,
  };
}

/** A cell with the samples of a later round; one that broke later is as broken as one that broke at once. */
export function mergeRound(cell: Cell, later: Cell, round: number): Cell {
  const { key, startedAt, seconds, log, status } = later;
  const rounds = [...(cell.rounds ?? []), { key, startedAt, seconds, log }];
  if (status !== "ok") {
    return { ...cell, rounds, status, reason: `in round ${round + 1}: ${later.reason}`, log };
  }
  const { throughput, serve } = cell;
  return {
    ...cell,
    rounds,
    ...(throughput && {
      throughput: throughput.map((load) =>
        mergeLoad(
          load,
          later.throughput?.find(({ shape }) => shape === load.shape),
        ),
      ),
    }),
    ...(serve && {
      serve: {
        ...serve,
        loads: serve.loads.map(({ rate, runs }) => ({
          rate,
          runs: [...runs, ...(later.serve?.loads.find((load) => load.rate === rate)?.runs ?? [])],
        })),
      },
    }),
  };
}
