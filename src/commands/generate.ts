import { defineCommand } from "../shared/command.js";

export const generate = defineCommand({
  name: "generate",
  summary: "write the plugin out as a Python project",
  description:
    "Writes the plugin project (pyproject, Python package, Triton kernels) into a new folder. It builds on its own with " +
    "`uv build` or `pip wheel .`, and gives the files that kivi install places.",
  arguments: [{ name: "dir", description: "a new or empty folder", required: true }],
  options: [
    { flags: "--wheel", description: "also write the finished wheel, into DIR/dist" },
    { flags: "--dry-run", description: "print what would be done and change nothing" },
  ],
  examples: [
    {
      command: "kivi generate ./vllm-kivi-plugin",
      explanation: "for an image build, or to read and change it",
    },
  ],
  schema: async () => (await import("./generate.schema.js")).schema,
  handler: async () => (await import("./generate.handler.js")).handler,
});
