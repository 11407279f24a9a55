import { z } from "zod";
import { PRESET_NAMES, PRESETS } from "../core/plugin/presets.js";
import { choice, decimal, integer } from "../shared/values.js";
import { residualTokens, retiredWindow, windowTokens } from "./kivi-settings.schema.js";

const isMultipleOf8 = (value: number): boolean => value % 8 === 0;

// The plugin checks the same again at its start, and what depends on the model; here it costs no start.
const fields = z.strictObject({
  model: z.string().min(1, "expected a folder or a hub name, found nothing"),
  venv: z.string().optional(),
  preset: choice(PRESET_NAMES).default("k4v4"),
  keyGroup: choice(["32", "64", "128", "256"]).transform(Number).optional(),
  valueGroup: integer({ min: 8 }).refine(isMultipleOf8, "expected a multiple of 8 channels").optional(),
  keyWindow: windowTokens(),
  valueResidual: residualTokens(),
  valueWindow: windowTokens(),
  window: retiredWindow("--"),
  rotation: z.boolean().optional(),
  clipping: z.boolean().optional(),
  kiviAudit: decimal({ min: 0, max: 1 }).optional(),
  host: z.string().min(1, "expected an address, found nothing").default("127.0.0.1"),
  port: integer({ min: 1, max: 65_535 }).default(8000),
  logFile: z.string().min(1, "expected a path, found nothing").optional(),
  timeout: integer({ min: 1, max: 86_400 }).default(900),
  print: z.boolean().default(false),
  dryRun: z.boolean().default(false),
  rest: z.array(z.string()).default([]),
});

export const schema = fields.superRefine(({ preset, keyGroup, valueResidual }, context) => {
  const group = keyGroup ?? PRESETS[preset].keyGroup;
  if (valueResidual === undefined || group % valueResidual === 0) return;
  context.addIssue({
    code: "custom",
    path: ["valueResidual"],
    message: `${valueResidual} must divide the key group, ${group} tokens`,
  });
});

export type ServeInput = z.output<typeof schema>;
