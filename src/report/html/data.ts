/** The points of the plots, read from the results: what is drawn, not how. */
import { CACHE_NAMES, type CacheName, inOrder } from "../../core/bench/caches.js";
import { median, samples, serveFigure } from "../../core/bench/serving/index.js";
import type { Report, ResultSet } from "../../core/report/index.js";
import { oneLine } from "../../shared/one-line.js";
import { figure, percent, ratio, whole } from "../format.js";
import { type Load, RATES } from "../metrics.js";
import { type CellRow, cellRows } from "../rows.js";
import { serveRates } from "../serve.js";

export interface Bar {
  readonly cache: CacheName;
  readonly colour: string;
  /** What stands at the bar. */
  readonly name: string;
  readonly value: number;
  readonly text: string;
}

export interface Point {
  readonly cache: CacheName;
  readonly colour: string;
  readonly set: string;
  readonly x: number;
  readonly y: number;
  readonly text: string;
}

/** Bars where each load has one batch size, curves where there are more. */
export interface Speed {
  readonly rate: "prefill" | "decode";
  readonly context: number;
  readonly batches: readonly number[];
  readonly points: readonly Point[];
  readonly bars: readonly Bar[];
}

function ran(report: Report): CellRow[] {
  const rows = cellRows(report.sets).filter(({ cell }) => cell.status === "ok");
  const order = inOrder(rows.map(({ cell }) => cell.cache));
  return rows.sort((a, b) => order.indexOf(a.cell.cache) - order.indexOf(b.cell.cache));
}

/** Of `--cache-other-*` in colours.css. */
const OTHER_COLOURS = 6;

/** The page's variable for a cache, the same in every plot: the usual caches have their own, others share some. */
function colour(cache: CacheName, { sets }: Report): string {
  if (CACHE_NAMES.includes(cache)) return `var(--cache-${cache})`;
  const all = inOrder(sets.flatMap(({ result }) => result.cells.map((cell) => cell.cache)));
  const others = all.filter((name) => !CACHE_NAMES.includes(name));
  return `var(--cache-other-${1 + (others.indexOf(cache) % OTHER_COLOURS)})`;
}

const SHORT = 20;

/** The name of a set in a plot: long ones lose their middle, and what is then alike gets its number. */
function setName(set: ResultSet, { sets }: Report): string {
  const shorten = (name: string): string =>
    name.length <= SHORT ? name : `${name.slice(0, SHORT / 2)}…${name.slice(1 - SHORT / 2)}`;
  const short = sets.map((one) => shorten(oneLine(one.name)));
  const index = sets.indexOf(set);
  const name = short[index] ?? "";
  return short.indexOf(name) === short.lastIndexOf(name) ? name : `${index + 1} ${name}`;
}

function barName({ cell, set }: CellRow, report: Report): string {
  return report.sets.length > 1 ? `${cell.cache} ${setName(set, report)}` : cell.cache;
}

function withRatio(value: number, base: number | null | undefined): string {
  return base ? `${figure(value)} (${ratio(value, base)})` : figure(value);
}

export function capacityBars(report: Report): Bar[] {
  return ran(report).flatMap((row) => {
    const tokens = row.cell.capacity?.tokens;
    if (tokens === undefined) return [];
    const text = withRatio(tokens, row.base?.capacity?.tokens);
    const { cache } = row.cell;
    return [{ cache, colour: colour(cache, report), name: barName(row, report), value: tokens, text }];
  });
}

/** Users that each cache's server bore within the limits. */
export function usersBars(report: Report): Bar[] {
  return ran(report).flatMap((row) => {
    const { cache, concurrency } = row.cell;
    if (concurrency === undefined) return [];
    const { users, broken } = concurrency;
    const more = broken === null ? " or more" : "";
    const other = row.base?.concurrency?.users;
    const text = `${whole(users)}${more}${other ? ` (${ratio(users, other)})` : ""}`;
    return [{ cache, colour: colour(cache, report), name: barName(row, report), value: users, text }];
  });
}

/** Plots of speed: one for each rate and prompt length. */
export function speeds(report: Report): Speed[] {
  const rows = ran(report);
  const loads = rows.flatMap(({ cell }) => cell.throughput ?? []);
  const contexts = [...new Set(loads.map((load) => load.context))].sort((a, b) => a - b);
  return contexts.flatMap((context) =>
    // Decode first: it is what a cache decides.
    [...RATES].reverse().flatMap((rate): Speed[] => {
      const of = (row: CellRow): Load[] =>
        (row.cell.throughput ?? []).filter((load) => load.context === context && rate.value(load) !== null);
      const batches = [...new Set(rows.flatMap(of).map((load) => load.batch))].sort((a, b) => a - b);
      if (batches.length === 0) return [];
      const drawn = rows.flatMap((row) =>
        of(row).map((load) => {
          const value = rate.value(load) ?? 0;
          const other = row.base?.throughput?.find((entry) => entry.shape === load.shape);
          return { row, load, value, text: withRatio(value, other && rate.value(other)) };
        }),
      );
      return [
        {
          rate: rate.name,
          context,
          batches,
          points: drawn.map(({ row, load, value, text }) => ({
            cache: row.cell.cache,
            colour: colour(row.cell.cache, report),
            set: setName(row.set, report),
            x: load.batch,
            y: value,
            text: `${barName(row, report)}, batch ${load.batch}: ${text} tokens/s`,
          })),
          bars:
            batches.length > 1
              ? []
              : drawn.map(({ row, value, text }) => ({
                  cache: row.cell.cache,
                  colour: colour(row.cell.cache, report),
                  name: barName(row, report),
                  value,
                  text,
                })),
        },
      ];
    }),
  );
}

/** A figure of the suite `serve` against the rate of requests, which are steps: "all at once" has no number. */
export interface Serving {
  readonly title: string;
  readonly unit: string;
  readonly rates: readonly string[];
  readonly points: readonly Point[];
}

const SERVED: readonly { figure: string; title: string }[] = [
  { figure: "requests_per_second", title: "Requests served" },
  { figure: "output_tokens_per_second", title: "Tokens served" },
  { figure: "ttft_p99", title: "Time to first token, 99th percentile" },
  { figure: "itl_p99", title: "Time between tokens, 99th percentile" },
];

/** One rate alone has no curve. */
export function servings(report: Report): Serving[] {
  const rows = ran(report);
  const rates = serveRates(rows.map(({ cell }) => cell));
  if (rates.length < 2) return [];
  return SERVED.map(({ figure: name, title }) => {
    const about = serveFigure(name);
    const points = rows.flatMap((row) =>
      rates.flatMap((rate, x): Point[] => {
        const values = row.cell.serve && samples(row.cell.serve, rate, about);
        if (values === undefined) return [];
        const y = median(values);
        const { cell, set } = row;
        const text = `${barName(row, report)}, ${rate} requests/s: ${figure(y)} ${about.unit}`;
        const { cache } = cell;
        return [{ cache, colour: colour(cache, report), set: setName(set, report), x, y, text }];
      }),
    );
    return { title, unit: about.unit, rates, points };
  });
}

/** What a cache costs in memory and in quality: bytes per token, and perplexity over the baseline's in percent. */
export function qualityPoints(report: Report): Point[] {
  return ran(report).flatMap(({ cell, set, base }) => {
    const own = cell.perplexity?.perplexity;
    const other = base?.perplexity?.perplexity;
    if (own === undefined || other === undefined || cell.capacity === undefined) return [];
    const x = cell.capacity.bytesPerToken;
    const text = `${cell.cache}${report.sets.length > 1 ? ` of ${oneLine(set.name)}` : ""}: ${figure(x)} bytes a token, ${percent(own, other)} perplexity`;
    const { cache } = cell;
    return [
      {
        cache,
        colour: colour(cache, report),
        set: setName(set, report),
        x,
        y: 100 * (own / other - 1),
        text,
      },
    ];
  });
}

/** Points that no other point beats in both, from the smallest cache to the largest. */
export function paretoFront(points: readonly Point[]): Point[] {
  const sorted = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const front: Point[] = [];
  for (const point of sorted) {
    if (front.every((better) => point.y < better.y)) front.push(point);
  }
  return front;
}
