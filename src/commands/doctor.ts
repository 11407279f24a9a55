import { defineCommand } from "../shared/command.js";

export const doctor = defineCommand({
  name: "doctor",
  summary: "find out why an environment does not serve",
  description:
    "Checks an environment that should serve with the KIVI cache: its Python, vLLM, the plugin and its files, what " +
    "killed installs left, whether vLLM loads the plugin, the GPU, its driver and the kernels on it, and kivi's own folder. Each check " +
    "is ok, a warning, a failure or skipped, and says what to do next; exit code 1 when one failed. Nothing in the " +
    "environment is changed unless --fix is given.",
  arguments: [{ name: "venv", description: "the environment (default: the active one, else ./.venv)" }],
  options: [
    {
      flags: "--model <folder>",
      description: "also check whether the plugin and vLLM's configuration take this model (its config.json)",
    },
    {
      flags: "--fix",
      description:
        "take back an install that was killed half-way, and remove the lock of a dead kivi; nothing else",
    },
  ],
  examples: [
    { command: "kivi doctor", explanation: "the active environment" },
    { command: "kivi doctor ~/vllm --model ./model", explanation: "and whether it can serve this model" },
    {
      command: "kivi doctor ~/vllm --model ./model -- --max-model-len 8192",
      explanation: "with these words for vLLM",
    },
    { command: "kivi doctor ~/vllm --fix", explanation: "clean up after a killed install first" },
  ],
  passThrough: { name: "vllm args", description: "as for kivi serve: checked with --model, by vLLM itself" },
  schema: async () => (await import("./doctor.schema.js")).schema,
  handler: async () => (await import("./doctor.handler.js")).handler,
});
