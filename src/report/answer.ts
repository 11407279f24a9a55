import type { Answer } from "../core/demo/index.js";
import type { CacheReport } from "../core/server/index.js";
import { figure } from "./format.js";

/** Of the prompt's keys and values, those that the first token after it reads quantized (vllm_kivi/reference.py). */
function readQuantized(promptTokens: number, cache: CacheReport): { keys: number; values: number } {
  const whole = (window: number, run: number): number =>
    Math.floor(Math.max(0, promptTokens - window) / run) * run;
  return {
    keys: whole(cache.keyWindow, cache.keyGroup),
    values: whole(cache.valueWindow, cache.valueResidual),
  };
}

/** One line on what was read and how fast. */
export function answerSummary(answer: Answer, cache: CacheReport): string {
  const { promptTokens, completionTokens, firstTokenMs, totalMs } = answer;
  const { keys, values } = readQuantized(promptTokens, cache);
  const rate = completionTokens > 1 ? ((completionTokens - 1) * 1000) / (totalMs - firstTokenMs) : undefined;
  return [
    `prompt of ${promptTokens} tokens, ${keys} of their keys read in ${cache.keyBits} bits, ${values} of their values in ${cache.valueBits}`,
    `first token after ${(firstTokenMs / 1000).toFixed(2)} s`,
    ...(rate === undefined ? [] : [`${figure(rate)} tokens/s`]),
  ].join(", ");
}
