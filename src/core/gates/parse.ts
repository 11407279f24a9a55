/**
 * The grammar of a gate, `CACHE.METRIC[SHAPE] OP NUMBER`, or `CACHE.METRIC[SHAPE] drop|rise OP NUMBER%` against an
 * earlier result. A word that is not known is a problem, never a gate that happens to pass.
 */
import { didYouMean } from "../../shared/suggest.js";
import { decimal } from "../../shared/values.js";
import { BASELINE, CACHE_NAME_FORM, CACHE_NAMES, type CacheName, canonicalName } from "../bench/caches.js";
import type { Metric } from "./metric.js";
import { METRIC_NAMES, METRICS } from "./metrics.js";

/** The longer ones first, so that they are what `=<` and `==` are nearest to. */
const OPERATORS = ["<=", ">=", "<", ">"] as const;
export type Operator = (typeof OPERATORS)[number];

const CHANGES = ["drop", "rise"] as const;
type Change = (typeof CHANGES)[number];

/** A condition under which a run fails. */
export interface Gate {
  /** In one spelling, however it was typed. */
  readonly text: string;
  readonly cache: CacheName;
  readonly metric: Metric;
  /** Undefined for a metric without loads, and for all loads. */
  readonly shape: string | undefined;
  /** Set where the figure is judged by its change against an earlier result. */
  readonly change: Change | undefined;
  readonly operator: Operator;
  readonly limit: number;
}

export type ParsedGate = { readonly gate: Gate } | { readonly problems: readonly string[] };

const FORM_WORDS = '"k4v4.capacity_ratio < 3.6" (cache.metric, one of < <= > >=, a number)';

const FORM =
  /^(?<cache>[^\s.<>=!]+)\.(?<metric>[^\s.[\]<>=!]+)\s*(?:\[(?<shape>[^\]]*)\])?(?:\s+(?<change>[a-z]+))?\s*(?<operator>[^\w\s.+%-]+)\s*(?<limit>\S+)$/i;

function oneOf<T extends string>(
  word: string,
  known: readonly T[],
  what: string,
  problems: string[],
): T | undefined {
  if ((known as readonly string[]).includes(word)) return word as T;
  const nearest = didYouMean(word, known) || ` Known: ${known.join(", ")}.`;
  problems.push(`unknown ${what} "${word}".${nearest}`);
  return undefined;
}

function readLimit(text: string, change: boolean, metric: Metric | undefined, problems: string[]): number {
  const percent = text.endsWith("%");
  if (change && !percent) problems.push(`drop and rise are in percent: write "${text}%"`);
  if (!change && percent) {
    problems.push(
      metric?.percent
        ? `${metric.name} is in percent already: write "${text.slice(0, -1)}"`
        : `"${text}": a share is for drop and rise against a --baseline`,
    );
  }
  const read = decimal(change ? { min: 0 } : {}).safeParse(percent ? text.slice(0, -1) : text);
  if (read.success) return read.data;
  problems.push(...read.error.issues.map((issue) => issue.message));
  return Number.NaN;
}

/** Reads one gate; every problem of it is told. */
export function parseGate(typed: string): ParsedGate {
  const parts = FORM.exec(typed.trim())?.groups;
  if (parts === undefined) return { problems: [`expected a gate such as ${FORM_WORDS}, found "${typed}"`] };
  const problems: string[] = [];
  // Whether there is such a cache, the matrix or the result knows (coverage.ts).
  const cache = canonicalName(parts.cache ?? "");
  if (!CACHE_NAME_FORM.test(cache)) oneOf(cache, CACHE_NAMES, "cache", problems);
  const name = oneOf(parts.metric ?? "", METRIC_NAMES, "metric", problems);
  const metric = METRICS.find((one) => one.name === name);
  const change = parts.change === undefined ? undefined : oneOf(parts.change, CHANGES, "change", problems);
  const operator = oneOf(parts.operator ?? "", OPERATORS, "operator", problems);
  const limit = readLimit(parts.limit ?? "", parts.change !== undefined, metric, problems);

  const { shape } = parts;
  if (shape !== undefined && metric !== undefined) {
    if (metric.loads === undefined) {
      problems.push(`${metric.name} has no loads: leave [${shape}] out`);
    } else if (!metric.loads.isName(shape)) {
      problems.push(`expected a load such as ${metric.loads.example}, found "[${shape}]"`);
    }
  }
  if (metric?.relative && cache === BASELINE) {
    problems.push(`${metric.name} compares with ${BASELINE}, which cannot differ from itself`);
  }
  if (change !== undefined && metric?.percent) {
    problems.push(`${metric.name} is a change in percent itself and has no ${change}`);
  }
  if (change !== undefined && operator?.startsWith("<")) {
    problems.push(`a ${change} is limited from above: write ${change} > or ${change} >=`);
  }
  if (metric === undefined || operator === undefined || problems.length > 0) {
    return { problems: problems.map((problem) => `${typed.trim()}: ${problem}`) };
  }
  const subject = `${cache}.${metric.name}${shape === undefined ? "" : `[${shape}]`}`;
  const condition = change === undefined ? `${operator} ${limit}` : `${change} ${operator} ${limit}%`;
  return {
    gate: { text: `${subject} ${condition}`, cache, metric, shape, change, operator, limit },
  };
}
