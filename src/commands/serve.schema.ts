import { z } from "zod";
import { PRESETS } from "../core/server/index.js";
import { choice, integer } from "../shared/values.js";

export const schema = z.strictObject({
  model: z.string().min(1, "expected a folder or a hub name, found nothing"),
  venv: z.string().optional(),
  preset: choice(PRESETS).default("k4v4"),
  keyGroup: integer({ min: 1 }).optional(),
  valueGroup: integer({ min: 1 }).optional(),
  window: integer({ min: 0 }).optional(),
  rotation: z.boolean().optional(),
  clipping: z.boolean().optional(),
  host: z.string().min(1, "expected an address, found nothing").default("127.0.0.1"),
  port: integer({ min: 1, max: 65_535 }).default(8000),
  logFile: z.string().min(1, "expected a path, found nothing").optional(),
  timeout: integer({ min: 1, max: 86_400 }).default(900),
  print: z.boolean().default(false),
  dryRun: z.boolean().default(false),
  rest: z.array(z.string()).default([]),
});

export type ServeInput = z.output<typeof schema>;
