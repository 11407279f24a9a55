/** The sizes of the suite `serve`: the load that vLLM's client puts on a server. */
import type { Device } from "../config.js";

/** Requests a second, or all of them at once. */
export type Rate = number | "inf";

/** Limits in milliseconds that a request must keep to count towards goodput. */
export interface Slo {
  readonly ttftMs?: number | undefined;
  readonly tpotMs?: number | undefined;
  readonly e2elMs?: number | undefined;
}

export interface ServingSettings {
  readonly rates: readonly Rate[];
  /** Requests at each rate, all of the same size. */
  readonly prompts: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Runs of each rate, each with prompts and arrivals of its own. */
  readonly repeats: number;
  /** Requests at once before the first measured run. */
  readonly warmupPrompts: number;
  readonly slo?: Slo | undefined;
}

/** On a GPU, more requests than a bf16 cache of the usual models holds; on a CPU, a minute for each cache. */
export function completeServing(device: Device, given: Partial<ServingSettings> = {}): ServingSettings {
  const cpu = device === "cpu";
  return {
    rates: cpu ? [1, "inf"] : [2, 8, "inf"],
    prompts: cpu ? 16 : 512,
    inputTokens: cpu ? 256 : 2048,
    outputTokens: cpu ? 32 : 256,
    repeats: 1,
    warmupPrompts: cpu ? 4 : 32,
    ...given,
  };
}

/** What a tokenizer may put around a prompt. */
const SPECIAL_TOKENS = 8;

/** Tokens of a whole request, at most. */
export function longestServed({
  inputTokens,
  outputTokens,
}: Pick<ServingSettings, "inputTokens" | "outputTokens">): number {
  return inputTokens + outputTokens + SPECIAL_TOKENS;
}

const FORM = /^(?:\d+\.?\d*|\.\d+)$/;
const MOST = 1_000_000;

/** Reads `0.5` or `inf`; undefined for any other spelling. */
export function parseRate(text: string): Rate | undefined {
  if (text === "inf") return "inf";
  const rate = FORM.test(text) ? Number(text) : Number.NaN;
  return rate > 0 && rate <= MOST ? rate : undefined;
}

/** The name of a load in results, reports and gates. */
export function rateName(rate: Rate): string {
  return String(rate);
}

/** Slow loads before fast ones, all at once last. */
export function byRate(a: string, b: string): number {
  const value = (name: string): number => (name === "inf" ? Number.POSITIVE_INFINITY : Number(name));
  return value(a) === value(b) ? 0 : value(a) - value(b);
}
