import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, usageError } from "../../shared/errors.js";
import { SUPPORTED_PYTHON, versionInRange } from "./supported.js";

/** Best first: the releases that vLLM's wheels are used with most. */
const CANDIDATES = ["python3.12", "python3.11", "python3.13", "python3.10", "python3", "python"];

/** A program on PATH, as a full path. */
export function findOnPath(env: NodeJS.ProcessEnv, name: string): string | undefined {
  for (const folder of (env.PATH ?? "").split(delimiter)) {
    if (folder === "") continue;
    const candidate = join(folder, name);
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The version of an interpreter, or undefined when it does not run. */
async function versionOf(context: Context, python: string): Promise<string | undefined> {
  const script = "import platform; print(platform.python_version())";
  try {
    const { exitCode, stdout } = await context.runner.run(
      { argv: [python, "-I", "-c", script], readOnly: true },
      { signal: context.signal, timeoutMs: 30_000 },
    );
    return exitCode === 0 ? stdout.trim() : undefined;
  } catch (error) {
    context.signal.throwIfAborted();
    context.out.debug(`${python} does not run: ${error}`);
    return undefined;
  }
}

export interface BasePython {
  readonly path: string;
  readonly version: string;
}

/** The interpreter to make an environment with: the one asked for, else the best on PATH. */
export async function findPython(context: Context, asked?: string): Promise<BasePython> {
  const hint = `Install Python 3.12 (or name one: --python /path/to/python3).`;
  if (asked !== undefined) {
    const name = /^\d+(\.\d+)*$/.test(asked) ? `python${asked.split(".").slice(0, 2).join(".")}` : asked;
    const path = name.includes("/")
      ? join(context.cwd.length > 0 && !name.startsWith("/") ? context.cwd : "", name)
      : findOnPath(context.env, name);
    const version = path === undefined ? undefined : await versionOf(context, path);
    if (path === undefined || version === undefined) {
      throw environmentError(
        "python-missing",
        `--python ${asked}: no such interpreter, or it does not run.`,
        hint,
      );
    }
    if (!versionInRange(version, SUPPORTED_PYTHON)) {
      throw usageError(
        "python-unsupported",
        `--python ${asked} is Python ${version}; vLLM needs ${SUPPORTED_PYTHON}.`,
        hint,
      );
    }
    return { path, version };
  }
  const seen: string[] = [];
  for (const name of CANDIDATES) {
    const path = findOnPath(context.env, name);
    if (path === undefined) continue;
    const version = await versionOf(context, path);
    if (version === undefined) continue;
    if (versionInRange(version, SUPPORTED_PYTHON)) return { path, version };
    seen.push(`${name} ${version}`);
  }
  throw environmentError(
    "python-missing",
    `No Python ${SUPPORTED_PYTHON} on PATH; found ${seen.length > 0 ? seen.join(", ") : "none"}.`,
    hint,
  );
}
