import { z } from "zod";
import { gateFlags } from "./gates.schema.js";

export const schema = z.strictObject({
  file: z.string().min(1),
  failIf: gateFlags().optional(),
  config: z.string().min(1).optional(),
  baseline: z.string().min(1).optional(),
});

export type GateInput = z.infer<typeof schema>;
