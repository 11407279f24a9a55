import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { childError, environmentError, type KiviError } from "../../shared/errors.js";
import { markedAnswer } from "../../shared/lines.js";
import { runChecked } from "../../shared/process.js";
import type { Venv } from "../venv/venv.js";
import { DISTRIBUTION } from "./distribution.js";

/** What the plugin says of itself inside a process that has loaded vLLM's plugins. */
export interface PluginStatus {
  readonly registered: boolean;
  readonly version: string;
  readonly vllm: string;
  readonly presets: readonly string[];
}

interface Answer {
  stage: "ok" | "entry-point" | "switched-off" | "vllm-import" | "plugin-load" | "register" | "worker";
  found?: string;
  status?: PluginStatus;
  file?: string;
}

const MARK = "KIVI_VERIFY ";

function problem(venv: Venv, answer: Answer): KiviError {
  const found = answer.found ?? "";
  const rollback = "The environment is as it was.";
  switch (answer.stage) {
    case "switched-off":
      return switchedOff(found.replace(/^VLLM_PLUGINS=/, ""));
    case "entry-point":
      return environmentError(
        "plugin-not-found",
        `${venv.python} does not see the plugin: ${found}. ${rollback}`,
        "Another copy of vllm-kivi may be on PYTHONPATH; unset PYTHONPATH and run again.",
      );
    case "vllm-import":
      return environmentError(
        "vllm-broken",
        `vLLM in ${venv.path} cannot be imported:\n${found.trimEnd()}\n${rollback}`,
        `Repair it (${venv.python} -c 'import vllm.plugins' shows the same error), then run again.`,
      );
    default:
      return environmentError(
        "plugin-not-loaded",
        `vLLM in ${venv.path} finds the plugin but does not load it:\n${found.trimEnd()}\n${rollback}`,
        `See what this kivi supports: kivi --version; ${DISTRIBUTION.name} needs vLLM ${DISTRIBUTION.supportedVllm}.`,
      );
  }
}

function switchedOff(value: string): KiviError {
  return environmentError(
    "plugin-switched-off",
    `VLLM_PLUGINS is "${value}", so vLLM would not load the plugin "${DISTRIBUTION.entryName}".`,
    `export VLLM_PLUGINS=${[...value.split(",").filter(Boolean), DISTRIBUTION.entryName].join(",")} (or unset VLLM_PLUGINS)`,
  );
}

/** VLLM_PLUGINS is an allow list; where it leaves us out, an install would be of no use in this shell. */
export function requireAllowed(env: NodeJS.ProcessEnv): void {
  const value = env.VLLM_PLUGINS;
  if (value !== undefined && !value.split(",").includes(DISTRIBUTION.entryName)) throw switchedOff(value);
}

export function verifyCommand(context: Context, python: string, bytecode = false): [string, ...string[]] {
  // As a rule no bytecode is written: looking must not change the environment.
  const flags = bytecode ? [] : ["-B"];
  return [python, ...flags, join(context.paths.templates, "probes", "verify_plugin.py")];
}

/** Starts a fresh interpreter of the environment, which spawns a worker as vLLM does, loads vLLM's plugins there, and reads what ours reports. */
export async function verifyPlugin(
  context: Context,
  venv: Venv,
  version: string,
  bytecode = false,
): Promise<PluginStatus> {
  const argv = verifyCommand(context, venv.python, bytecode);
  const { stdout, tail } = await runChecked(
    context.runner,
    { argv, readOnly: true },
    {
      what: "Loading the plugin in a fresh interpreter",
      code: "verify-failed",
      hint: `Run it by hand to see more: ${venv.python} -c 'from vllm.plugins import load_general_plugins as f; f()'`,
      cwd: venv.path,
      env: { NO_COLOR: "1" },
      signal: context.signal,
      timeoutMs: 600_000,
    },
  );
  const found = markedAnswer(stdout, MARK);
  if (found === undefined) {
    throw childError(
      "verify-failed",
      `The check of ${venv.path} printed no answer.\n${tail.slice(-15).join("\n")}`,
    );
  }
  const answer = found as Answer;
  if (answer.stage !== "ok" || answer.status === undefined) throw problem(venv, answer);
  const inPlace = answer.file?.startsWith(join(venv.sitePackages, DISTRIBUTION.package)) === true;
  if (!inPlace || answer.status.version !== version) {
    throw environmentError(
      "plugin-shadowed",
      `Python loads vllm_kivi ${answer.status.version} from ${answer.file}, not the installed ${version} in ${venv.sitePackages}.`,
      "Another copy comes first on the import path; unset PYTHONPATH (or remove that copy) and run again.",
    );
  }
  return answer.status;
}
