/** The sections `serving:` and `concurrency:` of a file for `kivi bench`, and the flag that stands for rates. */
import { z } from "zod";
import { parseRate, type Rate, rateName } from "../core/bench/serving/settings.js";
import { decimal, integer } from "../shared/values.js";

const tokens = (min: number) => integer({ min, max: 16_777_216 }).optional();
const milliseconds = () => decimal({ min: 0.001 }).optional();

const word = z.union([z.string(), z.number()]);

/** Request rates, without repeats: `0.5,2,inf`, or a list in a file's own type. */
export const rateList = z.union([word, z.array(word).min(1)]).transform((value, context): Rate[] => {
  const words = typeof value === "string" ? value.split(",") : [value].flat();
  const rates = words.flatMap((one) => {
    const rate = parseRate(String(one).trim());
    if (rate !== undefined) return [rate];
    const message = `expected requests a second such as 0.5, or inf for all at once, found "${one}"`;
    context.addIssue({ code: "custom", message });
    return [];
  });
  return [...new Map(rates.map((rate) => [rateName(rate), rate])).values()];
});

const slo = z
  .strictObject({ "ttft-ms": milliseconds(), "tpot-ms": milliseconds(), "e2el-ms": milliseconds() })
  .refine((limits) => Object.values(limits).some((limit) => limit !== undefined), "expected a limit");

export const servingSection = z.strictObject({
  rates: rateList.optional(),
  prompts: integer({ min: 1, max: 1_000_000 }).optional(),
  "input-tokens": tokens(1),
  // The time per output token is that of the tokens after the first.
  "output-tokens": tokens(2),
  repeats: integer({ min: 1, max: 1000 }).optional(),
  "warmup-prompts": integer({ min: 1, max: 1_000_000 }).optional(),
  slo: slo.optional(),
});

/** The section `concurrency:`. */
export const usersSection = z.strictObject({
  "input-tokens": tokens(1),
  "output-tokens": tokens(2),
  // The first request of each user is not counted.
  requests: integer({ min: 2, max: 1000 }).optional(),
  most: integer({ min: 1, max: 65_536 }).optional(),
  slo: slo.optional(),
});
