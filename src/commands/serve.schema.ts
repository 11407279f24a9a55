import { z } from "zod";
import { PRESETS } from "../core/server/index.js";
import { choice, integer } from "../shared/values.js";

const isMultipleOf8 = (value: number): boolean => value % 8 === 0;

// The plugin checks the same again at its start, and what depends on the model; here it costs no start.
export const schema = z.strictObject({
  model: z.string().min(1, "expected a folder or a hub name, found nothing"),
  venv: z.string().optional(),
  preset: choice(PRESETS).default("k4v4"),
  keyGroup: choice(["32", "64", "128", "256"]).transform(Number).optional(),
  valueGroup: integer({ min: 8 }).refine(isMultipleOf8, "expected a multiple of 8 channels").optional(),
  window: integer({ min: 0, max: 4096 }).optional(),
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
