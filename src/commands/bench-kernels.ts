import { KERNEL_NAMES } from "../core/kernels/names.js";
import { defineCommand } from "../shared/command.js";

export const benchKernels = defineCommand({
  name: "bench kernels",
  summary: "time of decode attention kernels, without a model or an engine",
  description:
    "Times decode attention on a CUDA GPU over batches, contexts and query heads of a KV head: KIVI's kernels, " +
    "FlashAttention 3 in bf16 and fp8, and vLLM's int4_per_token_head and TurboQuant, with a cold L2 cache and CUDA " +
    "graphs, against the copy bandwidth of the same run. Each implementation is checked before it is timed, and one that is " +
    "not there says why. The result is saved after each figure; kivi report renders it. Exit code 1 when something failed " +
    "or nothing could be measured.",
  examples: [
    {
      command: "kivi bench kernels --only k4v4,fa3-bf16 --ratios 4",
      explanation: "k4v4 against FlashAttention 3",
    },
    {
      command: "kivi bench kernels --budget-seconds 300",
      explanation: "what fits into five minutes, the most telling shapes first",
    },
  ],
  options: [
    {
      flags: "--venv <folder>",
      description: "the environment with vLLM and the plugin",
      defaultText: "$VIRTUAL_ENV or .venv",
    },
    {
      flags: "--only <list>",
      description: KERNEL_NAMES.join(", "),
      defaultText: "all but the Triton kernels of k4v2 and k2v2",
    },
    { flags: "--batches <list>", description: "rows of a step", defaultText: "1,4,16,64,256" },
    {
      flags: "--contexts <list>",
      description: "tokens that each row attends to",
      defaultText: "512,2048,8192,32768,131072",
    },
    {
      flags: "--ratios <list>",
      description: "query heads of a KV head, of which there are 8",
      defaultText: "4,8,1",
    },
    { flags: "--samples <number>", description: "samples of each figure", defaultText: "20" },
    {
      flags: "--memory <size>",
      description: "most memory of a shape, e.g. 40GiB; larger ones are skipped",
      defaultText: "what is free",
    },
    {
      flags: "--budget-seconds <number>",
      description: "begin no further figure after so long; what is left out is said",
    },
    { flags: "--sources", description: "measure the kernels of this kivi instead of the installed plugin's" },
    { flags: "--output <file>", description: "result file", defaultText: "kivi-kernels.json" },
    { flags: "--dry-run", description: "print the command, run nothing" },
  ],
  schema: async () => (await import("./bench-kernels.schema.js")).schema,
  handler: async () => (await import("./bench-kernels.handler.js")).handler,
});
