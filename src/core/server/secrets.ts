import { usageError } from "../../shared/errors.js";
import { splitSecrets } from "../../shared/redact.js";

/** Where vLLM looks for what a flag would say; unlike a command line, only the user's own processes can read it. */
const VARIABLES: Readonly<Record<string, string>> = { "--api-key": "VLLM_API_KEY", "--hf-token": "HF_TOKEN" };

/**
 * Moves secrets out of words for vLLM, where every user of the machine sees them in the list of processes, and vLLM
 * logs them, into variables of its environment.
 */
export function takeSecrets(words: readonly string[]): { words: string[]; env: Record<string, string> } {
  const { rest, secrets } = splitSecrets(words);
  const env: Record<string, string> = {};
  for (const { flag, values } of secrets) {
    const variable = VARIABLES[flag] as string;
    const [value, ...others] = values;
    // Alone it asks for the token that `hf auth login` stored, which is what vLLM takes anyhow.
    if (value === undefined && flag === "--hf-token") continue;
    if (value === undefined || value === "") {
      throw usageError(
        "secret-missing",
        `${flag} after -- has no value.`,
        `export ${variable}=... and leave ${flag} out.`,
      );
    }
    if (others.length > 0) {
      throw usageError(
        "several-secrets",
        `${flag} after -- has ${values.length} values, which every user of this machine would see in the list of processes.`,
        `Give one, best as the variable ${variable}; or put several into a file of vLLM's: -- --config FILE.`,
      );
    }
    env[variable] = value;
  }
  return { words: rest, env };
}
