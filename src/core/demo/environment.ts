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

export interface PreparedEnvironment {
  readonly venv: Venv;
  readonly environmentReused: boolean;
  readonly pluginReused: boolean;
}

/** An environment with vLLM's CPU build and the plugin, in kivi's cache folder; made once. */
export async function prepareEnvironment(
  context: Context,
  options: { python?: string | undefined },
): Promise<PreparedEnvironment> {
  const { out, paths } = context;
  const path = join(paths.cacheDir, "demo", "venv");
  let venv = await openEarlier(context, path);
  const environmentReused = venv !== undefined;
  if (venv === undefined) {
    await checkSpace(paths.cacheDir);
    venv = await createEnvironment(context, { path, device: "cpu", python: options.python });
  } else {
    out.info(`Environment: re-used, ${path}`);
  }
  const { outcome } = await installPlugin(context, venv);
  const pluginReused = outcome === "unchanged";
  if (pluginReused) out.info("Plugin: already installed and intact, re-used");
  return { venv, environmentReused, pluginReused };
}
