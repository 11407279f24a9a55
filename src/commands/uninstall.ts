import { defineCommand } from "../shared/command.js";

export const uninstall = defineCommand({
  name: "uninstall",
  summary: "take the KIVI plugin out of an environment",
  description:
    "Removes what the plugin's RECORD lists, its caches and the folders left empty, and nothing else. Files that were " +
    "changed by hand are named and kept (exit code 1) unless --force is given.",
  arguments: [{ name: "venv", description: "the environment (default: the active one, else ./.venv)" }],
  options: [
    { flags: "--force", description: "remove plugin files that were changed by hand, too" },
    { flags: "--dry-run", description: "print what would be done and change nothing" },
  ],
  examples: [{ command: "kivi uninstall", explanation: "out of the active environment" }],
  schema: async () => (await import("./uninstall.schema.js")).schema,
  handler: async () => (await import("./uninstall.handler.js")).handler,
});
