import { z } from "zod";
import { GPU_NAMES } from "../core/plan/gpus.js";
import { byteSize, choice, decimal, integer } from "../shared/values.js";

export const schema = z.strictObject({
  model: z.string().min(1),
  gpu: choice(GPU_NAMES).optional(),
  memory: byteSize().optional(),
  utilization: decimal({ min: 0.05, max: 1 }).default(0.9),
  tensorParallel: integer({ min: 1, max: 64 }).default(1),
  context: integer({ min: 1, max: 16_777_216 }).optional(),
  maxNumSeqs: integer({ min: 1, max: 65_536 }).default(256),
  maxBatchedTokens: integer({ min: 1, max: 1_048_576 }).default(8192),
  reserve: byteSize().optional(),
});

export type PlanInput = z.infer<typeof schema>;
