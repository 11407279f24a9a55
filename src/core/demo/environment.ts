import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { messageOf } from "../../shared/errors.js";
import { installPlugin } from "../plugin/index.js";
import { createEnvironment, openVenv, requireVllm, type Venv } from "../venv/index.js";
import { checkSpace } from "./checks.js";

/** The demo's own environment, if an earlier run finished it and it still runs. */
async function openEarlier(context: Context, path: string): Promise<Venv | undefined> {
  if (!existsSync(path)) return undefined;
  try {
    const venv = await openVenv(context, path);
    requireVllm(venv);
    return venv;
  } catch (error) {
    context.signal.throwIfAborted();
    // kivi made it, in its own cache folder; what does not run is of no use to anybody.
    context.out.info(
      `The environment of an earlier run is not usable and is made again: ${messageOf(error)}`,
    );
    await rm(path, { recursive: true, force: true });
    return undefined;
  }
}

export interface DemoEnvironment {
  readonly venv: Venv;
  readonly reused: boolean;
}

/** An environment with vLLM's CPU build in kivi's cache folder; made once. */
export async function prepareEnvironment(
  context: Context,
  options: { python?: string | undefined },
): Promise<DemoEnvironment> {
  const { out, paths } = context;
  const path = join(paths.cacheDir, "demo", "venv");
  const earlier = await openEarlier(context, path);
  if (earlier !== undefined) {
    out.info(`Environment: re-used, ${path}`);
    return { venv: earlier, reused: true };
  }
  await checkSpace(paths.cacheDir);
  return {
    venv: await createEnvironment(context, { path, device: "cpu", python: options.python }),
    reused: false,
  };
}

/**
 * Lets Python keep the byte code of what a server imports: half of the import time of each of the many engine
 * processes to come. Of no consequence if it fails.
 */
export async function compileBytecode(
  context: Context,
  { venv, reused }: DemoEnvironment,
  signal: AbortSignal,
): Promise<void> {
  if (reused) return;
  const argv = [venv.python, "-c", "import vllm.entrypoints.openai.api_server"] as const;
  const env = { PYTHONDONTWRITEBYTECODE: undefined, PYTHONPATH: undefined };
  await context.runner.run({ argv }, { signal, env }).catch((error) => context.out.debug(messageOf(error)));
}

/** The plugin in the environment; tells whether it was there, intact, already. */
export async function preparePlugin(
  context: Context,
  { venv }: DemoEnvironment,
): Promise<{ reused: boolean }> {
  const { outcome } = await installPlugin(context, venv);
  const reused = outcome === "unchanged";
  if (reused) context.out.info("Plugin: already installed and intact, re-used");
  return { reused };
}
