/** The section `quality:` of a file for `kivi bench`. */
import { z } from "zod";
import { integer, integerList } from "../shared/values.js";

const tokens = (min: number) => integer({ min, max: 16_777_216 }).optional();
const number = (max: number) => integer({ min: 1, max }).optional();

export const qualitySection = z.strictObject({
  window: tokens(2),
  windows: number(100_000),
  "top-logprobs": number(4096),
  prompts: number(100_000),
  "prompt-tokens": tokens(1),
  "new-tokens": tokens(1),
  "needle-lengths": integerList({ min: 1, max: 16_777_216 }).optional(),
  "needle-depths": integerList({ min: 0, max: 100 }).optional(),
  "needle-trials": number(1000),
  calls: number(100_000),
  "call-context": tokens(1),
});
