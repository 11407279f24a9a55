import { defineCommand } from "../shared/command.js";

export const install = defineCommand({
  name: "install",
  summary: "put the KIVI plugin into a vLLM environment",
  description:
    "Installs the plugin into a virtual environment that holds vLLM, and checks in a fresh interpreter that vLLM " +
    "loads it. On a failure or Ctrl-C the environment is as it was.",
  arguments: [{ name: "venv", description: "the environment (default: the active one, else ./.venv)" }],
  options: [
    { flags: "--create", description: "make the environment first, with vLLM in it" },
    {
      flags: "--device <kind>",
      description: "with --create: cpu or cuda",
      defaultText: "cuda where nvidia-smi is, else cpu",
    },
    {
      flags: "--vllm <version>",
      description: "with --create: the vLLM release",
      defaultText: "the measured one",
    },
    {
      flags: "--python <python>",
      description: "with --create: an interpreter or a version such as 3.12",
      defaultText: "the best on PATH",
    },
    { flags: "--force", description: "replace plugin files that were changed by hand" },
    { flags: "--dry-run", description: "print what would be done and change nothing" },
  ],
  examples: [
    { command: "kivi install", explanation: "into the active environment" },
    { command: "kivi install ~/vllm --dry-run", explanation: "show what would be done" },
    {
      command: "kivi install --create ~/kivi --device cpu",
      explanation: "a new environment with vLLM's CPU build",
    },
  ],
  schema: async () => (await import("./install.schema.js")).schema,
  handler: async () => (await import("./install.handler.js")).handler,
});
