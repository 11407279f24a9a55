/** The quality suite's sizes: what is asked of each cache so that its answers can be compared with the baseline's. */
import type { Device } from "./config.js";

export interface QualitySettings {
  /** Tokens of a window whose next-token distributions are compared, and how many windows at most. */
  readonly window: number;
  readonly windows: number;
  /** Tokens of each distribution that the reference keeps. */
  readonly topLogprobs: number;
  /** Greedy answers: how many, to prompts of how many tokens, of how many tokens. */
  readonly prompts: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Tokens of a needle prompt, depths in percent, and questions for each length and depth. */
  readonly needleLengths: readonly number[];
  readonly needleDepths: readonly number[];
  readonly needleTrials: number;
  /** Tool calls, each asked for after so many tokens of text. */
  readonly calls: number;
  readonly callContext: number;
}

/** A pass key has five digits; the rest is for models that answer in a sentence. */
const ANSWER_TOKENS = 24;

/** On a CPU a cell of a small model takes less than a minute beside its start. */
export function completeQuality(device: Device, given: Partial<QualitySettings> = {}): QualitySettings {
  const cpu = device === "cpu";
  return {
    window: cpu ? 512 : 1024,
    windows: cpu ? 4 : 16,
    topLogprobs: 64,
    prompts: cpu ? 8 : 32,
    promptTokens: 256,
    newTokens: cpu ? 64 : 128,
    needleLengths: cpu ? [512, 1024] : [1024, 4096],
    needleDepths: cpu ? [10, 50, 90] : [0, 25, 50, 75, 100],
    needleTrials: cpu ? 2 : 4,
    calls: cpu ? 8 : 64,
    callContext: cpu ? 256 : 1024,
    ...given,
  };
}

/** Tokens of the longest piece of text that is needed. */
export function longestText({ window, promptTokens, needleLengths, callContext }: QualitySettings): number {
  return Math.max(window, promptTokens, callContext, ...needleLengths);
}

/** A request, the tools to choose from and the call, by the most verbose tokenizer. */
const CALL_TOKENS = 768;

/** Tokens of the longest sequence, answers included; a scored window gets one more. */
export function longestSequence(settings: QualitySettings): number {
  const { window, promptTokens, newTokens, needleLengths, callContext } = settings;
  return Math.max(
    window + 1,
    promptTokens + newTokens,
    Math.max(...needleLengths) + ANSWER_TOKENS,
    callContext + CALL_TOKENS,
  );
}

/** The worker's form of it (bench/kivi_bench/spec.py). */
export function qualitySpec(settings: QualitySettings, text: string, seed: number): object {
  return {
    text,
    seed,
    window: settings.window,
    windows: settings.windows,
    top_logprobs: settings.topLogprobs,
    prompts: settings.prompts,
    prompt_tokens: settings.promptTokens,
    new_tokens: settings.newTokens,
    needle_lengths: settings.needleLengths,
    needle_depths: settings.needleDepths,
    needle_trials: settings.needleTrials,
    needle_answer_tokens: ANSWER_TOKENS,
    calls: settings.calls,
    call_context: settings.callContext,
  };
}
