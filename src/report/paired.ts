/** How sure a ratio of perplexities is: both caches scored the same windows, so what one window costs is told window by window. */
import jstat from "jstat";
import type { Cell } from "../core/bench/result.js";
import type { Interval } from "./interval.js";

const CONFIDENCE = 0.95;

export const PAIRED_NOTE =
  "[low to high]: 95 % confidence interval of a perplexity against bf16's, window by window.";

function sameText(a: NonNullable<Cell["perplexity"]>, b: NonNullable<Cell["perplexity"]>): boolean {
  return (
    a.textSha256 === b.textSha256 &&
    a.window === b.window &&
    a.scoredTokens === b.scoredTokens &&
    a.windowNll.length === a.windows &&
    b.windowNll.length === b.windows
  );
}

/**
 * The ratio of two perplexities is exp of the mean difference of their windows' negative log-likelihoods (nats a token,
 * all windows equally long); the interval is that of Student's t for the mean. Undefined where the windows are not the
 * same, or fewer than two.
 */
export function perplexityInterval(cell: Cell, base: Cell): Interval | undefined {
  const [own, its] = [cell.perplexity, base.perplexity];
  if (own === undefined || its === undefined || !sameText(own, its)) return undefined;
  const differences = own.windowNll.map((nll, index) => nll - (its.windowNll[index] ?? Number.NaN));
  const count = differences.length;
  if (count < 2) return undefined;
  const mean = jstat.mean(differences);
  const error = jstat.stdev(differences, true) / Math.sqrt(count);
  const reach = jstat.studentt.inv((1 + CONFIDENCE) / 2, count - 1) * error;
  return { low: Math.exp(mean - reach), high: Math.exp(mean + reach) };
}
