/** Words for vLLM beside what a matrix sets itself: pipeline and data parallel, Ray, whatever else it knows. */
import { usageError } from "../../shared/errors.js";
import { secretFlag } from "../../shared/redact.js";

/** What decides a figure, or how it is measured, has a name of its own here, so that results can be compared by it. */
const OWN: Readonly<Record<string, string>> = {
  "--model": "the MODEL argument",
  "--kv-cache-dtype": "--caches",
  "--dtype": "--dtype, before the --",
  "--seed": "--seed, before the --",
  "--max-model-len": "--max-model-len, before the --",
  "--max-num-seqs": "--max-num-seqs, before the --",
  "--max-num-batched-tokens": "--max-batched-tokens",
  "--enforce-eager": "--execution",
  "--no-enforce-eager": "--execution",
  "--tensor-parallel-size": "--tensor-parallel",
  "-tp": "--tensor-parallel",
  "--kv-cache-memory-bytes": "--kv-memory",
  "--gpu-memory-utilization": "--gpu-memory-utilization, before the --",
  "--load-format": "--load-format, before the --",
  "--additional-config": "the section kivi: of a --config file",
  // They would be in the saved result.
  "--api-key": "nothing: the server is on this machine alone",
  "--hf-token": "the environment variable HF_TOKEN",
  "--enable-prefix-caching": "nothing: every prompt is to be computed",
  "--no-enable-prefix-caching": "nothing: it is off already",
};

/** vLLM takes `--load_format=x` for `--load-format x`. */
function flagName(word: string): string {
  const secret = secretFlag(word);
  if (secret !== undefined) return secret;
  return word.startsWith("--") ? (word.split("=", 1)[0] ?? word).replaceAll("_", "-") : word;
}

export function requireFreeArguments(words: readonly string[]): void {
  const flag = words.map(flagName).find((word) => Object.hasOwn(OWN, word));
  if (flag === undefined) return;
  throw usageError(
    "conflicting-argument",
    `${flag} among vLLM's arguments conflicts with what kivi bench sets itself.`,
    `Remove it and use ${OWN[flag]}.`,
  );
}
