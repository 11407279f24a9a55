import { z } from "zod";
import { FORMATS } from "../report/formats.js";
import { choice } from "../shared/values.js";

export const schema = z.strictObject({
  files: z.array(z.string().min(1)).min(1),
  format: choice(FORMATS).optional(),
  output: z.string().min(1).optional(),
  force: z.boolean().default(false),
});

export type ReportInput = z.output<typeof schema>;
