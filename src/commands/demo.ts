import { defineCommand } from "../shared/command.js";

export const demo = defineCommand({
  name: "demo",
  summary: "All of it on a machine without a GPU",
  description: [
    "Makes an environment with vLLM's CPU build and the plugin in kivi's cache folder, fetches SmolLM2-135M-Instruct,",
    "serves it with a 4-bit KIVI cache, asks one question over the OpenAI-compatible API, and measures a small matrix.",
    "Needs Linux and Python 3.10 to 3.13, about 8 GB of disk; a second run re-uses all of it.",
  ].join("\n"),
  examples: [
    { command: "kivi demo", explanation: "the whole tour" },
    { command: 'kivi demo --question "What is a prism?" --no-matrix', explanation: "only ask" },
    { command: "kivi demo --fresh", explanation: "measure again what an earlier run measured" },
  ],
  options: [
    { flags: "--question <text>", description: "ask this", defaultText: "one about a letter" },
    {
      flags: "--python <path or version>",
      description: "interpreter for the environment",
      defaultText: "best on PATH",
    },
    { flags: "--no-matrix", description: "stop after the answer" },
    { flags: "--fresh", description: "measure the matrix anew" },
  ],
  schema: async () => (await import("./demo.schema.js")).schema,
  handler: async () => (await import("./demo.handler.js")).handler,
});
