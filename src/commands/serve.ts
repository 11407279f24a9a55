import { PRESET_NAMES } from "../core/plugin/presets.js";
import { defineCommand } from "../shared/command.js";

export const serve = defineCommand({
  name: "serve",
  summary: "Serve a model with vLLM and a KIVI cache",
  description: [
    "Starts vLLM's OpenAI-compatible server from an environment that holds the plugin, waits until it answers, and",
    "says what its cache holds. Runs until Ctrl-C or SIGTERM, which stop every process of the server.",
    "With --json, one document when the server is ready and one when it ends.",
  ].join("\n"),
  examples: [
    { command: "kivi serve Qwen/Qwen3-0.6B", explanation: "4-bit keys and values on http://127.0.0.1:8000" },
    { command: "kivi serve ./model --preset k4v2 --port 8080", explanation: "2-bit values, another port" },
    {
      command: "kivi serve ./model -- --max-model-len 8192 --enforce-eager",
      explanation: "with words for vLLM itself",
    },
    {
      command: "kivi serve Qwen/Qwen3-32B -- --tensor-parallel-size 2 --data-parallel-size 2",
      explanation: "two engines of two GPUs each",
    },
    { command: "kivi serve ./model --dry-run", explanation: "only check, and show vLLM's command line" },
  ],
  arguments: [
    { name: "model", description: "model folder, or name on the Hugging Face hub", required: true },
  ],
  options: [
    {
      flags: "--venv <path>",
      description: "environment with vLLM and the plugin",
      defaultText: "the active one, else ./.venv",
    },
    { flags: "--preset <name>", description: PRESET_NAMES.join(", "), defaultText: "k4v4" },
    {
      flags: "--key-group <tokens>",
      description: "tokens that share a key scale",
      defaultText: "the preset's",
    },
    {
      flags: "--value-group <channels>",
      description: "channels that share a value scale",
      defaultText: "the preset's",
    },
    {
      flags: "--key-window <tokens>",
      description: "tokens before the open group whose keys are read unquantized",
      defaultText: "the preset's",
    },
    {
      flags: "--value-residual <tokens>",
      description: "values are read unquantized until a run of this many tokens is complete",
      defaultText: "the preset's, at most the key group",
    },
    {
      flags: "--value-window <tokens>",
      description: "tokens before the open run whose values are read unquantized",
      defaultText: "the preset's",
    },
    // Its schema refuses it with the names of its two successors.
    { flags: "--window [tokens]", description: "of earlier versions", hidden: true },
    { flags: "--rotation", description: "rotate queries, keys and values (Hadamard)" },
    { flags: "--no-rotation", description: "do not rotate" },
    { flags: "--clipping", description: "let 2-bit codes cover the middle 7/8 of a range" },
    { flags: "--no-clipping", description: "use minimum and maximum as they are" },
    {
      flags: "--kivi-audit <rate>",
      description: "part of decode steps computed again by the reference, errors on /metrics",
      defaultText: "0, none",
    },
    { flags: "--host <address>", description: "address to listen on", defaultText: "127.0.0.1" },
    { flags: "--port <number>", description: "port to listen on", defaultText: "8000" },
    {
      flags: "--log-file <path>",
      description: "where the server's log goes",
      defaultText: "a new file in kivi's cache folder",
    },
    { flags: "--timeout <seconds>", description: "limit for the start", defaultText: "900" },
    {
      flags: "--dry-run",
      description: "check everything, print vLLM's command line, start nothing (--json: and its environment)",
    },
    { flags: "--print", description: "as earlier versions call --dry-run", hidden: true },
  ],
  passThrough: { name: "vllm args", description: "handed to vLLM as they are" },
  schema: async () => (await import("./serve.schema.js")).schema,
  handler: async () => (await import("./serve.handler.js")).handler,
});
