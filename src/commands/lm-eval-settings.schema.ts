/** The section `lm-eval:` of a file for `kivi bench`. */
import { z } from "zod";
import { integer } from "../shared/values.js";

const tasks = z.union([z.string(), z.array(z.string()).min(1)]).transform((value, context): string[] => {
  const words = (typeof value === "string" ? value.split(",") : value).map((word) => word.trim());
  if (words.every((word) => word !== "")) return [...new Set(words)];
  context.addIssue({ code: "custom", message: "expected names of lm-eval's tasks, or paths of YAML files" });
  return z.NEVER;
});

export const lmEvalSection = z.strictObject({
  tasks: tasks.optional(),
  limit: integer({ min: 1, max: 1_000_000 }).optional(),
});
