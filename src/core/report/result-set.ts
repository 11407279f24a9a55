import type { BenchResult } from "../bench/result.js";
import type { Fact } from "./facts.js";

/** One result file. */
export interface ResultSet {
  /** Short, and different for each set of a report. */
  readonly name: string;
  readonly path: string;
  readonly result: BenchResult;
}

/** Result sets to be shown side by side: what every reporter renders. */
export interface Report {
  readonly sets: readonly ResultSet[];
  /** Facts that differ and make the figures incomparable; empty unless the reader insisted. */
  readonly unlike: readonly Fact[];
  /** Facts that differ and may well be what is compared. */
  readonly changed: readonly Fact[];
}
