/** Refuses, before anything runs, gates that the run could not judge. */
import { usageError } from "../../shared/errors.js";
import { didYouMean } from "../../shared/suggest.js";
import { BASELINE, CACHE_NAMES, inOrder } from "../bench/caches.js";
import type { MatrixConfig } from "../bench/config.js";
import type { BenchResult } from "../bench/result.js";
import type { Gate } from "./parse.js";

/** A gate on what the matrix does not measure is a slip, not a finding. */
export function requireCoverage(
  gates: readonly Gate[],
  config: Pick<MatrixConfig, "caches" | "suites" | "shapes" | "serving">,
): void {
  const caches = [...new Set([BASELINE, ...config.caches])];
  const problems = gates.flatMap(({ text, cache, metric, shape }) => {
    const found: string[] = [];
    const add = (what: string, word: string, known: readonly string[]): void => {
      if (known.includes(word)) return;
      found.push(
        `${text}: this run has no ${what} ${word}, only ${known.join(", ")}.${didYouMean(word, known)}`,
      );
    };
    add("cache", cache, caches);
    if (metric.suite !== undefined) add("suite", metric.suite, config.suites);
    if (shape !== undefined) add("load", shape, metric.loads?.planned(config) ?? []);
    return found;
  });
  if (problems.length === 0) return;
  const hint = "Correct the gate, or measure it with --caches, --suites, --shapes and --rates.";
  throw usageError("gate-not-measured", problems.join("\n"), hint, { details: { problems } });
}

/** A misspelt cache is a slip too; one that every matrix may hold and this result lacks has no figure, and its gate fails. */
export function requireCaches(gates: readonly Gate[], results: readonly BenchResult[]): void {
  const known = inOrder([...CACHE_NAMES, ...results.flatMap(({ planned }) => planned)]);
  const problems = gates
    .filter(({ cache }) => !known.includes(cache))
    .map(
      ({ text, cache }) =>
        `${text}: unknown cache "${cache}".${didYouMean(cache, known) || ` Known: ${known.join(", ")}.`}`,
    );
  if (problems.length === 0) return;
  throw usageError("gate-unknown-cache", problems.join("\n"), "Correct the gate.", { details: { problems } });
}

/** A change needs something to be a change from, and a baseline somebody who asks. */
export function requireBaseline(gates: readonly Gate[], baseline: string | undefined): void {
  const change = gates.find((gate) => gate.change !== undefined);
  if (change !== undefined && baseline === undefined) {
    throw usageError(
      "gate-without-baseline",
      `${change.text}: there is no earlier result to compare with.`,
      "Name one with --baseline OLD.json.",
    );
  }
  if (change === undefined && baseline !== undefined) {
    throw usageError(
      "baseline-without-gate",
      `--baseline ${baseline}: no gate compares with it.`,
      "Add one such as --fail-if 'k4v4.decode_tokens_per_second drop > 5%'.",
    );
  }
}

/** Two results that are not of the same thing have no drop and no rise. */
export function requireAlike(unlike: readonly string[], baseline: string): void {
  if (unlike.length === 0) return;
  throw usageError(
    "baseline-unlike",
    `--baseline ${baseline} cannot be compared with:\n${unlike.join("\n")}`,
    "Compare results of the same model, engine configuration and hardware.",
    { details: { differences: unlike } },
  );
}
