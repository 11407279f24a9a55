import { z } from "zod";
import { CACHE_NAME_FORM, canonicalName } from "../core/bench/caches.js";
import { SUITES } from "../core/bench/config.js";
import { parseShape, type Shape } from "../core/bench/shapes.js";
import { byteSize, choice, choiceList, decimal, integer } from "../shared/values.js";
import { gateFlags, gateList } from "./gates.schema.js";
import { residualTokens, retiredWindow, windowTokens } from "./kivi-settings.schema.js";
import { lmEvalSection } from "./lm-eval-settings.schema.js";
import { qualitySection } from "./quality-settings.schema.js";
import { rateList, servingSection, usersSection } from "./serving-settings.schema.js";

const tokens = () => integer({ min: 1, max: 16_777_216 });

const shapes = z.string().transform((text, context): Shape[] => {
  const words = text.split(",").map((word) => word.trim());
  return words.flatMap((word) => {
    const shape = parseShape(word);
    if (shape !== undefined) return [shape];
    context.addIssue({
      code: "custom",
      message: `expected loads such as 4x1024+32 (batch x context + new tokens), found "${word}"`,
    });
    return [];
  });
});

/** Any name will do here: which there are, the installed vLLM says. */
const caches = z.string().transform((text, context): string[] => {
  const words = text.split(",").map((word) => word.trim());
  const wrong = words.find((word) => !CACHE_NAME_FORM.test(word));
  if (wrong === undefined) return [...new Set(words.map(canonicalName))];
  const message = `expected a comma-separated list of caches such as bf16,fp8,k4v4, found "${wrong}"`;
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});

/** KIVI's settings in a file; numbers and switches in YAML's own types. */
const kivi = z.strictObject({
  "key-group": integer({ min: 8 }).optional(),
  "value-group": integer({ min: 8 }).optional(),
  "key-window": windowTokens(),
  "value-residual": residualTokens(),
  "value-window": windowTokens(),
  window: retiredWindow(""),
  rotation: z.boolean().optional(),
  clipping: z.boolean().optional(),
});

/** What may stand on the command line and in a file alike. */
const shared = {
  venv: z.string().min(1),
  caches,
  suites: choiceList(SUITES),
  shapes,
  repeats: integer({ min: 1, max: 1000 }),
  rounds: integer({ min: 1, max: 100 }),
  text: z.string().min(1),
  window: integer({ min: 2, max: 1_048_576 }),
  windows: integer({ min: 1, max: 100_000 }),
  context: tokens(),
  kvMemory: byteSize(),
  gpuMemoryUtilization: decimal({ min: 0.05, max: 1 }),
  maxModelLen: tokens(),
  maxNumSeqs: integer({ min: 1, max: 65_536 }),
  maxBatchedTokens: tokens(),
  dtype: choice(["bfloat16", "float16", "float32"]),
  tensorParallel: integer({ min: 1, max: 64 }),
  execution: choice(["eager", "compiled"]),
  loadFormat: choice(["auto", "dummy"]),
  seed: integer({ min: 0, max: 2 ** 31 - 1 }),
  output: z.string().min(1),
  baseline: z.string().min(1),
};

export const fileFields = {
  ...shared,
  // A list is joined by commas before it is read.
  model: z.string().transform((text) => text.split(",").filter((word) => word !== "")),
  kivi,
  quality: qualitySection,
  lmEval: lmEvalSection,
  serving: servingSection,
  concurrency: usersSection,
  thresholds: gateList(),
  vllmArgs: z.string().transform((text) => text.split(/[\s,]+/).filter((word) => word !== "")),
};

export const schema = z
  .strictObject({
    ...shared,
    model: z.array(z.string().min(1)),
    // A file has them under serving:.
    rates: rateList,
    config: z.string().min(1),
    failIf: gateFlags(),
    resume: z.boolean(),
    dryRun: z.boolean(),
    rest: z.array(z.string()),
  })
  .partial();

export type BenchInput = z.infer<typeof schema>;
