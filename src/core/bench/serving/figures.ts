/** The figures of one load, for reports and gates alike. */
import type { Concurrency, Serve, ServeRun } from "./schema.js";
import type { Slo } from "./settings.js";

export interface ServeFigure {
  /** Of its metric, after `serve_`. */
  readonly name: string;
  readonly meaning: string;
  readonly unit: "requests/s" | "tokens/s" | "ms" | "count";
  read(run: ServeRun): number | undefined;
}

const LATENCIES = [
  { name: "ttft", words: "time to first token", of: (run: ServeRun) => run.ttftMs },
  { name: "tpot", words: "time per output token after the first", of: (run: ServeRun) => run.tpotMs },
  { name: "itl", words: "time between two tokens", of: (run: ServeRun) => run.itlMs },
] as const;

const STATISTICS = [
  { name: "mean", words: "mean" },
  { name: "p50", words: "median" },
  { name: "p99", words: "99th percentile of" },
] as const;

export const SERVE_FIGURES: readonly ServeFigure[] = [
  {
    name: "requests_per_second",
    meaning: "requests finished a second",
    unit: "requests/s",
    read: (run) => run.requestsPerSecond,
  },
  {
    name: "goodput",
    meaning: "requests a second that kept the limits of slo:",
    unit: "requests/s",
    read: (run) => run.goodput,
  },
  {
    name: "output_tokens_per_second",
    meaning: "generated tokens a second",
    unit: "tokens/s",
    read: (run) => run.outputTokensPerSecond,
  },
  {
    name: "total_tokens_per_second",
    meaning: "prompt and generated tokens a second",
    unit: "tokens/s",
    read: (run) => run.totalTokensPerSecond,
  },
  ...LATENCIES.flatMap(({ name, words, of }) =>
    STATISTICS.map(
      (statistic): ServeFigure => ({
        name: `${name}_${statistic.name}`,
        meaning: `${statistic.words} ${words}`,
        unit: "ms",
        read: (run) => of(run)[statistic.name],
      }),
    ),
  ),
  {
    name: "preemptions",
    meaning: "sequences that were thrown out of the cache and computed again",
    unit: "count",
    read: (run) => run.preemptions,
  },
];

export function serveFigure(name: string): ServeFigure {
  const found = SERVE_FIGURES.find((figure) => figure.name === name);
  if (found === undefined) throw new TypeError(`no figure ${name}`);
  return found;
}

/** The values of a figure in the runs of one load; undefined where it was not measured. */
export function samples(serve: Serve, rate: string, figure: ServeFigure): number[] | undefined {
  const values = serve.loads.find((load) => load.rate === rate)?.runs.map(figure.read);
  return values?.every((value) => value !== undefined) ? values : undefined;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.slice((sorted.length - 1) >> 1, (sorted.length >> 1) + 1);
  return middle.reduce((sum, value) => sum + value, 0) / middle.length;
}

function limitWords(slo: Slo | undefined): string[] {
  return Object.entries(slo ?? {}).flatMap(([name, ms]) =>
    ms === undefined ? [] : [`${name.replace("Ms", "")} ${ms} ms`],
  );
}

/** What the suite `concurrency` asked, in one line. */
export function usersSetup({ inputTokens, outputTokens, requests, most, slo, seed }: Concurrency): string {
  return [
    `${requests} requests of ${inputTokens} + ${outputTokens} tokens for each of up to ${most} users`,
    `limits ${limitWords(slo).join(", ")} at the 99th percentile`,
    `seed ${seed}`,
  ].join(", ");
}

/** Of a server's runs the one with the most users that kept the limits; undefined where none did. */
export function runAtLimit({ runs, users }: Concurrency): Concurrency["runs"][number] | undefined {
  return runs.find((run) => run.held && run.users === users);
}

/** What the suite `serve` asked, in one line; other sizes or another seed make other figures. */
export function serveSetup({
  prompts,
  inputTokens,
  outputTokens,
  warmupPrompts,
  seed,
  slo,
  loads,
}: Serve): string {
  const limits = limitWords(slo);
  const runs = loads[0]?.runs.length ?? 0;
  return [
    `${prompts} requests of ${inputTokens} + ${outputTokens} tokens at each rate`,
    `${runs} ${runs === 1 ? "run" : "runs"}`,
    `${warmupPrompts} to warm up`,
    ...(limits.length === 0 ? [] : [`limits ${limits.join(", ")}`]),
    `seed ${seed}`,
  ].join(", ");
}
