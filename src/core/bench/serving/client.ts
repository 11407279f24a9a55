/** vLLM's own load client: its command line, and what it saves. */
import { z } from "zod";
import { messageOf } from "../../../shared/errors.js";
import { median } from "./figures.js";
import type { ServeRun } from "./schema.js";
import { type Rate, rateName, type Slo } from "./settings.js";

export interface ClientRun {
  readonly python: string;
  /** bench/client.py */
  readonly script: string;
  readonly url: string;
  readonly model: string;
  readonly rate: Rate;
  readonly prompts: number;
  readonly seed: number;
  /** Each sends its next request when it has its answer; left out where requests arrive by themselves. */
  readonly users?: number | undefined;
  readonly folder: string;
  /** Of the file in `folder` that the client writes. */
  readonly file: string;
}

export interface RequestSizes {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly slo?: Slo | undefined;
}

function goodput(slo: Slo | undefined): string[] {
  const limits = { ttft: slo?.ttftMs, tpot: slo?.tpotMs, e2el: slo?.e2elMs };
  const words = Object.entries(limits).flatMap(([name, ms]) => (ms === undefined ? [] : [`${name}:${ms}`]));
  return words.length === 0 ? [] : ["--goodput", ...words];
}

/** Random prompts of one length, arriving as a Poisson process or from so many users, each answered in full. */
export function clientCommand(run: ClientRun, settings: RequestSizes): [string, ...string[]] {
  const options: Record<string, string | number> = {
    "--backend": "openai",
    "--base-url": run.url,
    "--model": run.model,
    "--dataset-name": "random",
    "--random-input-len": settings.inputTokens,
    "--random-output-len": settings.outputTokens,
    "--num-prompts": run.prompts,
    "--request-rate": rateName(run.rate),
    ...(run.users === undefined ? {} : { "--max-concurrency": run.users }),
    "--burstiness": 1,
    "--seed": run.seed,
    // As the other suites do, whatever the model's own defaults are.
    "--temperature": 0,
    "--percentile-metrics": "ttft,tpot,itl,e2el",
    "--metric-percentiles": "50,99",
    "--result-dir": run.folder,
    "--result-filename": run.file,
  };
  return [
    run.python,
    run.script,
    ...Object.entries(options).flatMap(([name, value]) => [name, String(value)]),
    // Details tell why a request failed: the client ends with 0 even when all of them do.
    ...["--ignore-eos", "--disable-tqdm", "--save-result", "--save-detailed"],
    ...goodput(settings.slo),
  ];
}

const count = z.number().int().nonnegative();
const figure = z.number().nonnegative();

const savedSchema = z.looseObject({
  duration: z.number().positive(),
  completed: count,
  failed: count,
  errors: z.array(z.string()),
  total_output_tokens: count,
  request_throughput: figure,
  request_goodput: figure.nullish(),
  output_throughput: figure,
  total_token_throughput: figure,
  max_concurrent_requests: z.number().nonnegative().nullish(),
  ...latencies("ttft"),
  ...latencies("tpot"),
  ...latencies("itl"),
  ...latencies("e2el"),
});

type Saved = z.infer<typeof savedSchema>;
type LatencyName = "ttft" | "tpot" | "itl" | "e2el";

function latencies<N extends LatencyName>(name: N) {
  const fields = { [`mean_${name}_ms`]: figure, [`p50_${name}_ms`]: figure, [`p99_${name}_ms`]: figure };
  return fields as Record<`${"mean" | "p50" | "p99"}_${N}_ms`, typeof figure>;
}

function latency(saved: Saved, name: LatencyName): ServeRun["ttftMs"] {
  return { mean: saved[`mean_${name}_ms`], p50: saved[`p50_${name}_ms`], p99: saved[`p99_${name}_ms`] };
}

/** A traceback says what happened in its last line. */
function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.trim() ?? "";
}

function readSaved(text: string, prompts: number): Saved {
  let saved: Saved;
  try {
    saved = savedSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new Error(`the client's result is not of the known form: ${messageOf(error)}`);
  }
  if (saved.failed > 0 || saved.completed !== prompts) {
    const reason = saved.errors.map(lastLine).find((line) => line !== "") ?? "no reason given";
    throw new Error(`${prompts - saved.completed} of ${prompts} requests failed: ${reason}`);
  }
  return saved;
}

/** Reads what the client saved. Throws where a request failed: figures of the others say nothing of the cache. */
export function readClientResult(text: string, prompts: number): ServeRun {
  const saved = readSaved(text, prompts);
  return {
    durationSeconds: saved.duration,
    completed: saved.completed,
    failed: saved.failed,
    requestsPerSecond: saved.request_throughput,
    outputTokensPerSecond: saved.output_throughput,
    totalTokensPerSecond: saved.total_token_throughput,
    ttftMs: latency(saved, "ttft"),
    tpotMs: latency(saved, "tpot"),
    itlMs: latency(saved, "itl"),
    e2elMs: latency(saved, "e2el"),
    ...(saved.request_goodput == null ? {} : { goodput: saved.request_goodput }),
    ...(saved.max_concurrent_requests == null
      ? {}
      : { peakRequests: Math.round(saved.max_concurrent_requests) }),
  };
}

/** Of each request, in the order they were sent; in seconds, the gaps between its tokens one by one. */
const detailsSchema = z.object({
  ttfts: z.array(figure),
  itls: z.array(z.array(figure)),
});

/** The value that 99 % do not exceed. */
function percentile99(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil(0.99 * sorted.length) - 1] ?? Number.NaN;
}

function summary(seconds: readonly number[]): ServeRun["ttftMs"] {
  const ms = seconds.map((value) => value * 1000);
  const mean = ms.reduce((sum, value) => sum + value, 0) / ms.length;
  return { mean, p50: median(ms), p99: percentile99(ms) };
}

/** The latencies of the requests after the first `skipped`, which all began at once. */
export function readSteadyState(
  text: string,
  prompts: number,
  skipped: number,
): Pick<ServeRun, "durationSeconds" | "outputTokensPerSecond" | "ttftMs" | "tpotMs" | "e2elMs"> & {
  counted: number;
} {
  const saved = readSaved(text, prompts);
  const details = detailsSchema.safeParse(JSON.parse(text));
  if (!details.success || details.data.ttfts.length !== prompts || details.data.itls.length !== prompts) {
    throw new Error("the client's result has no times of each request");
  }
  const ttfts = details.data.ttfts.slice(skipped);
  const decodes = details.data.itls.slice(skipped).map((gaps) => gaps.reduce((sum, gap) => sum + gap, 0));
  const perToken = saved.total_output_tokens / prompts - 1;
  return {
    counted: ttfts.length,
    durationSeconds: saved.duration,
    outputTokensPerSecond: saved.output_throughput,
    ttftMs: summary(ttfts),
    // Pieces of a stream may hold several tokens, so the gaps are divided by the tokens, not by their number.
    tpotMs: summary(decodes.map((seconds) => seconds / perToken)),
    e2elMs: summary(decodes.map((seconds, index) => seconds + (ttfts[index] ?? Number.NaN))),
  };
}
