import type { Cell } from "../bench/result.js";

/** What the suite asked, in one line: windows, greedy answers, needles; other sizes or another seed make other figures. */
export function qualitySetup({
  divergence,
  greedy,
  needle,
  calls,
  seed,
}: NonNullable<Cell["quality"]>): string {
  const distinct = (key: "length" | "depth"): string =>
    [...new Set(needle.grid.map((place) => place[key]))].join("/");
  return [
    `${divergence.windows} windows of ${divergence.window} tokens (top ${divergence.topLogprobs})`,
    `${greedy.prompts} greedy answers of ${greedy.newTokens} tokens to prompts of ${greedy.promptTokens}`,
    `${needle.questions} needles in ${distinct("length")} tokens at ${distinct("depth")} %`,
    ...(calls === undefined ? [] : [`${calls.calls} tool calls after ${calls.context} tokens`]),
    `seed ${seed}`,
  ].join(", ");
}
