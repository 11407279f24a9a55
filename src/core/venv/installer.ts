import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { messageOf } from "../../shared/errors.js";
import { runChecked } from "../../shared/process.js";
import { findOnPath } from "./python.js";

/** The release that is fetched when there is no uv on the machine. */
const UV_VERSION = "0.13.9";

/** What makes environments and fills them. */
export type Installer = { readonly kind: "uv"; readonly path: string } | { readonly kind: "pip" };

/** uv from PATH, or the copy that an earlier run fetched. */
export function knownUv(context: Context): string | undefined {
  const fetched = join(context.paths.cacheDir, "tools", `uv-${UV_VERSION}`, "bin", "uv");
  return findOnPath(context.env, "uv") ?? (existsSync(fetched) ? fetched : undefined);
}

/** Puts uv into kivi's own cache folder, with pip; nothing of the user's Python is changed. */
async function fetchUv(context: Context, python: string): Promise<string> {
  const home = join(context.paths.cacheDir, "tools", `uv-${UV_VERSION}`);
  const staged = `${home}.${process.pid}`;
  const options = { signal: context.signal, timeoutMs: 300_000, what: "Fetching uv" };
  await mkdir(join(context.paths.cacheDir, "tools"), { recursive: true });
  try {
    try {
      await runChecked(
        context.runner,
        { argv: [python, "-m", "pip", "install", "--quiet", "--target", staged, `uv==${UV_VERSION}`] },
        options,
      );
    } catch (error) {
      // A Python without pip may still be able to make an environment that has it.
      context.signal.throwIfAborted();
      context.out.debug(messageOf(error));
      await rm(staged, { recursive: true, force: true });
      const maker = join(staged, "maker");
      await runChecked(context.runner, { argv: [python, "-m", "venv", maker] }, options);
      const pip = [join(maker, "bin", "python"), "-m", "pip", "install", "--quiet"] as const;
      await runChecked(context.runner, { argv: [...pip, "--target", staged, `uv==${UV_VERSION}`] }, options);
      await rm(maker, { recursive: true, force: true });
    }
    await rm(home, { recursive: true, force: true });
    await rename(staged, home);
  } finally {
    await rm(staged, { recursive: true, force: true });
  }
  return join(home, "bin", "uv");
}

/** uv if there is or can be one, else the pip of a plain environment. */
export async function findInstaller(context: Context, python: string): Promise<Installer> {
  const known = knownUv(context);
  if (known !== undefined) return { kind: "uv", path: known };
  try {
    return { kind: "uv", path: await fetchUv(context, python) };
  } catch (error) {
    context.signal.throwIfAborted();
    context.out.debug(`no uv: ${messageOf(error)}`);
    context.out.info("uv could not be fetched; using pip, which is slower.");
    return { kind: "pip" };
  }
}
