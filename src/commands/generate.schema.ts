import { z } from "zod";
import { MODELS } from "../core/deploy/options.js";
import { PRESET_NAMES } from "../core/plugin/presets.js";
import { choice, integer } from "../shared/values.js";

/** An image reference without a digest, which only a registry gives: `[HOST[:PORT]/]PATH[:TAG]`. */
const IMAGE =
  /^(?:[a-z\d](?:[a-z\d.-]*[a-z\d])?(?::\d{1,5})?\/)?[a-z\d]+(?:(?:[._]|__|-+)[a-z\d]+)*(?:\/[a-z\d]+(?:(?:[._]|__|-+)[a-z\d]+)*)*(?::\w[\w.-]{0,127})?$/;

/** `ORGANIZATION/NAME` or `NAME`; a word that vLLM cannot take for a flag, nor anything for a variable. */
const HUB_NAME = /^[A-Za-z\d][\w.-]*(?:\/[A-Za-z\d][\w.-]*)?$/;
const PATH_PART = /^(?!\.\.?$)[\w.-]+$/;

function isModel(text: string): boolean {
  if (!text.startsWith("/")) return HUB_NAME.test(text);
  if (!text.startsWith(`${MODELS}/`)) return false;
  return text
    .slice(MODELS.length + 1)
    .split("/")
    .every((part) => PATH_PART.test(part));
}

const deployment = z.strictObject({
  image: z
    .string()
    .max(255)
    .regex(IMAGE, "expected the name of an image, such as registry.example.com/vllm-kivi:1")
    .optional(),
  model: z
    .string()
    .max(255)
    .refine(isModel, `expected a hub name such as Qwen/Qwen3-8B, or a path below ${MODELS} in the container`)
    .optional(),
  preset: choice(PRESET_NAMES).optional(),
  port: integer({ min: 1, max: 65_535 }).optional(),
  tensorParallel: integer({ min: 1, max: 64 }).optional(),
  maxModelLen: integer({ min: 1, max: 100_000_000 }).optional(),
});

const fields = deployment.extend({
  dir: z.string().min(1),
  wheel: z.boolean().default(false),
  deploy: z.boolean().default(false),
  dryRun: z.boolean().default(false),
});

export const schema = fields
  .superRefine((input, context) => {
    const refuse = (path: string, message: string): void => {
      context.addIssue({ code: "custom", path: [path], message });
    };
    if (input.deploy) {
      if (input.model === undefined) refuse("model", "is needed with --deploy: what the containers serve");
      if (input.wheel) refuse("wheel", "does not go with --deploy, whose image builds its own");
      return;
    }
    for (const name of deployment.keyof().options) {
      if (input[name] !== undefined) refuse(name, "goes with --deploy only");
    }
  })
  .transform(({ dir, wheel, deploy, dryRun, ...given }) => ({
    dir,
    wheel,
    dryRun,
    deploy:
      deploy && given.model !== undefined
        ? {
            image: given.image,
            model: given.model,
            preset: given.preset ?? ("k4v4" as const),
            port: given.port ?? 8000,
            tensorParallel: given.tensorParallel ?? 1,
            maxModelLen: given.maxModelLen,
          }
        : undefined,
  }));

export type GenerateInput = z.output<typeof schema>;
