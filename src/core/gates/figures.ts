/** Finds the figures that a gate judges, or says why there are none. */
import { BASELINE, type CacheName } from "../bench/caches.js";
import type { BenchResult, Cell } from "../bench/result.js";
import { differences } from "./comparable.js";
import { unlikeConditions } from "./metric.js";
import type { Gate } from "./parse.js";
import { asDrop, asRise, exact, isMissing, type Missing, quotient, type Reading } from "./reading.js";

export interface ShapedReading {
  readonly shape: string | undefined;
  readonly reading: Reading;
}

/** The caches whose cells are compared with those of an earlier result. */
export function comparedCaches(gates: readonly Gate[]): CacheName[] {
  const changes = gates.filter((gate) => gate.change !== undefined);
  return changes.flatMap(({ cache, metric }) => (metric.relative ? [cache, BASELINE] : [cache]));
}

/** A reading for each load that the gate judges, one for a metric without loads. */
export function readGate(
  result: BenchResult,
  gate: Gate,
  baseline: BenchResult | undefined,
): readonly ShapedReading[] {
  const compared = gate.change === undefined || baseline === undefined ? [] : [baseline];
  const shapes = loads(gate, [result, ...compared]);
  if (shapes.length === 0) {
    return [{ shape: undefined, reading: { missing: `the result has no ${gate.metric.suite}` } }];
  }
  return shapes.map((shape) => ({
    shape,
    reading:
      gate.change === undefined ? readFigure(result, gate, shape) : readChange(result, gate, shape, baseline),
  }));
}

/** The loads to judge: the one that is named, or all that any cell was measured under. */
function loads(gate: Gate, results: readonly BenchResult[]): (string | undefined)[] {
  if (gate.metric.loads === undefined) return [undefined];
  if (gate.shape !== undefined) return [gate.shape];
  return gate.metric.loads.measured(results.flatMap((result) => result.cells));
}

function findCell(result: BenchResult, cache: CacheName): Cell | Missing {
  const cell = result.cells.find((one) => one.cache === cache);
  if (cell === undefined) return { missing: `${cache} was not measured` };
  if (cell.status === "ok") return cell;
  const [reason] = (cell.reason ?? "no reason given").split("\n");
  return { missing: `${cache} ${cell.status === "failed" ? "failed" : "is unsupported"}: ${reason}` };
}

function readFigure(result: BenchResult, { cache, metric }: Gate, shape: string | undefined): Reading {
  const cell = findCell(result, cache);
  if ("missing" in cell) return cell;
  const base = metric.relative ? findCell(result, BASELINE) : cell;
  if ("missing" in base) return base;
  return metric.read(cell, base, shape ?? "");
}

function readChange(
  result: BenchResult,
  gate: Gate,
  shape: string | undefined,
  baseline: BenchResult | undefined,
): Reading {
  if (baseline === undefined) return { missing: "no baseline result was given" };
  const unlike = differences(result, baseline, comparedCaches([gate]));
  if (unlike.length > 0) return { missing: `the baseline is of something else: ${unlike.join("; ")}` };
  const [own, old] = [readFigure(result, gate, shape), readFigure(baseline, gate, shape)];
  if (isMissing(own)) return own;
  if (isMissing(old)) return { missing: `in the baseline, ${old.missing}` };
  const [cell, other] = [findCell(result, gate.cache), findCell(baseline, gate.cache)];
  if (!("missing" in cell) && !("missing" in other)) {
    const conditions = unlikeConditions(gate.metric, cell, other);
    if (conditions.length > 0) return { missing: `the baseline has another ${conditions.join(", ")}` };
  }
  const times = quotient(own, old);
  const change = gate.change === "drop" ? asDrop(times) : asRise(times);
  if (isMissing(change)) return change;
  const figures = `${exact(own.value)} after ${exact(old.value)}`;
  return { ...change, remarks: [figures, ...change.remarks] };
}
