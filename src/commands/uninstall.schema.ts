import { z } from "zod";

export const schema = z.strictObject({
  venv: z.string().min(1).optional(),
  force: z.boolean().default(false),
  dryRun: z.boolean().default(false),
});

export type UninstallInput = z.output<typeof schema>;
