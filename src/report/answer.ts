import type { Answer } from "../core/demo/index.js";
import type { CacheReport } from "../core/server/index.js";
import { figure } from "./format.js";

/** One line on what was read and how fast. */
export function answerSummary(answer: Answer, cache: CacheReport): string {
  const { promptTokens, completionTokens, firstTokenMs, totalMs } = answer;
  const open = promptTokens - cache.window;
  const closed = Math.max(0, Math.floor(open / cache.keyGroup) * cache.keyGroup);
  const rate = completionTokens > 1 ? ((completionTokens - 1) * 1000) / (totalMs - firstTokenMs) : undefined;
  return [
    `prompt of ${promptTokens} tokens, ${closed} of them read in ${cache.keyBits}-bit groups`,
    `first token after ${(firstTokenMs / 1000).toFixed(2)} s`,
    ...(rate === undefined ? [] : [`${figure(rate)} tokens/s`]),
  ].join(", ");
}
