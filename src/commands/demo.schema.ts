import { z } from "zod";

export const schema = z.strictObject({
  question: z.string().trim().min(1, "expected a question, found nothing").optional(),
  python: z.string().min(1, "expected a path or a version, found nothing").optional(),
  matrix: z.boolean().default(true),
  fresh: z.boolean().default(false),
});

export type DemoInput = z.output<typeof schema>;
