/** What a metric of a gate is; the list of them is in metrics.ts. */
import type { Suite } from "../bench/config.js";
import type { Cell } from "../bench/result.js";
import type { Loads } from "./loads.js";
import { quotient, type Reading } from "./reading.js";

export interface Metric {
  readonly name: string;
  /** For help and documents. */
  readonly meaning: string;
  /** What has to be measured for it; every cell has a figure of no suite. */
  readonly suite: Suite | undefined;
  /** Has a figure for each of these. */
  readonly loads: Loads | undefined;
  /** Compares with the bf16 cell of the same result. */
  readonly relative: boolean;
  /** Is a change in percent already. */
  readonly percent: boolean;
  /** Facts that two cells must share for their figures to be of the same thing. */
  conditions(cell: Cell): Readonly<Record<string, unknown>>;
  /** `base` is the bf16 cell for a relative metric, both of status ok; `shape` is empty for a metric without loads. */
  read(cell: Cell, base: Cell, shape: string): Reading;
}

type Basic = Pick<Metric, "name" | "meaning" | "suite" | "read"> & Partial<Metric>;

export function metric(about: Basic): Metric {
  return { loads: undefined, relative: false, percent: false, conditions: () => ({}), ...about };
}

/** The figure of a cell over that of the baseline's. */
export function againstBase(read: Metric["read"]): Metric["read"] {
  return (cell, base, shape) => quotient(read(cell, base, shape), read(base, base, shape));
}

export function without(cell: Cell, what: string): Reading {
  return { missing: `${cell.cache} was not measured for ${what}` };
}

/** Names of the facts in which the two cells differ for this metric. */
export function unlikeConditions(about: Metric, cell: Cell, other: Cell): string[] {
  const [own, its] = [about.conditions(cell), about.conditions(other)];
  return Object.keys(own).filter((name) => own[name] !== its[name]);
}
