import { z } from "zod";

export const schema = z.strictObject({
  dir: z.string().min(1),
  wheel: z.boolean().default(false),
  dryRun: z.boolean().default(false),
});

export type GenerateInput = z.output<typeof schema>;
