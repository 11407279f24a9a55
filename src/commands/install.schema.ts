import { z } from "zod";
import { choice } from "../shared/values.js";

const NEEDS_CREATE = ["device", "vllm", "python"] as const;

export const schema = z
  .strictObject({
    venv: z.string().min(1).optional(),
    create: z.boolean().default(false),
    device: choice(["cpu", "cuda"]).optional(),
    vllm: z
      .string()
      .regex(/^\d+\.\d+(\.\d+)?((a|b|rc|\.post|\.dev)\d+)?$/, "expected a release such as 0.26.0")
      .optional(),
    python: z.string().min(1).optional(),
    force: z.boolean().default(false),
    dryRun: z.boolean().default(false),
  })
  .superRefine((value, context) => {
    if (value.create) return;
    for (const key of NEEDS_CREATE) {
      if (value[key] === undefined) continue;
      context.addIssue({ code: "custom", path: [key], message: "only means something with --create" });
    }
  });

export type InstallInput = z.output<typeof schema>;
