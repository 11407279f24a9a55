/** What lm-eval measured, as it is saved. */
import { z } from "zod";

const positive = z.number().positive();
const count = z.number().int().nonnegative();

/** What the worker measured; figures that a task does not have are left out. */
export const lmEvalSchema = z.object({
  version: z.string(),
  window: count,
  limit: count.nullable(),
  tasks: z
    .array(
      z.object({
        task: z.string(),
        documents: count,
        /** Of lm-eval's own hashes of the documents. */
        sha256: z.string(),
        wordPerplexity: positive.optional(),
        bytePerplexity: positive.optional(),
        bitsPerByte: positive.optional(),
      }),
    )
    .min(1),
});

export type LmEval = z.infer<typeof lmEvalSchema>;

/** What was asked, in one line; another text, window or limit makes other figures. */
export function lmEvalSetup({ tasks, window }: LmEval): string {
  const read = tasks.map(
    ({ task, documents, sha256 }) => `${task} (${documents} documents, sha256 ${sha256.slice(0, 12)})`,
  );
  return `${read.join(", ")}, windows of ${window} tokens`;
}
