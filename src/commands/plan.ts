import { defineCommand } from "../shared/command.js";

export const plan = defineCommand({
  name: "plan",
  summary: "work out on paper what a GPU would hold of a model with each cache",
  description:
    "Reads a model's config.json and counts bytes per token, tokens held and sequences at once for bf16, fp8 and the KIVI " +
    "caches on a GPU, after weights, activations and KIVI's staging. Needs no GPU and no vLLM; kivi bench measures the same.",
  examples: [
    { command: "kivi plan ./llama-8b --gpu h200", explanation: "from a folder, on a named GPU" },
    {
      command: "kivi plan Qwen/Qwen3-32B --gpu a100-80 --tensor-parallel 2 --context 32768",
      explanation: "from the hub",
    },
    {
      command: "kivi plan config.json --memory 80GiB --max-num-seqs 64",
      explanation: "any memory, fewer sequences staged",
    },
  ],
  arguments: [
    {
      name: "model",
      description: "a folder, a config.json, or a name on the Hugging Face hub",
      required: true,
    },
  ],
  options: [
    {
      flags: "--gpu <name>",
      description:
        "a10g, a100-40, a100-80, h100, h200, b200, l4, l40s, rtx3090, rtx4090, rtx5090, rtxpro6000",
      defaultText: "h100",
    },
    { flags: "--memory <size>", description: "memory of one GPU instead of a name, e.g. 80GiB" },
    { flags: "--utilization <share>", description: "vLLM's --gpu-memory-utilization", defaultText: "0.9" },
    { flags: "--tensor-parallel <number>", description: "GPUs that share the model", defaultText: "1" },
    {
      flags: "--context <tokens>",
      description: "length of a sequence",
      defaultText: "8192, or the model's own limit",
    },
    {
      flags: "--max-num-seqs <number>",
      description: "sequences at once; KIVI stages for each",
      defaultText: "256",
    },
    { flags: "--max-batched-tokens <tokens>", description: "tokens of one step", defaultText: "8192" },
    {
      flags: "--reserve <size>",
      description: "memory for activations and graphs",
      defaultText: "an estimate",
    },
  ],
  schema: async () => (await import("./plan.schema.js")).schema,
  handler: async () => (await import("./plan.handler.js")).handler,
});
