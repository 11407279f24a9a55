import { z } from "zod";

export const schema = z.strictObject({
  venv: z.string().min(1).optional(),
  model: z.string().min(1).optional(),
  fix: z.boolean().default(false),
  rest: z.array(z.string()).default([]),
});

export type DoctorInput = z.output<typeof schema>;
