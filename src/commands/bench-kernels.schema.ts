import { z } from "zod";
import { KERNEL_NAMES } from "../core/kernels/names.js";
import { byteSize, choiceList, decimal, integer, integerList } from "../shared/values.js";

export const schema = z
  .strictObject({
    venv: z.string().min(1),
    only: choiceList(KERNEL_NAMES),
    batches: integerList({ min: 1, max: 65_536 }),
    contexts: integerList({ min: 1, max: 16_777_216 }),
    ratios: integerList({ min: 1, max: 64 }),
    samples: integer({ min: 1, max: 100_000 }),
    memory: byteSize(),
    budgetSeconds: decimal({ min: 1 }),
    sources: z.boolean(),
    output: z.string().min(1),
    dryRun: z.boolean(),
  })
  .partial();

export type BenchKernelsInput = z.infer<typeof schema>;
