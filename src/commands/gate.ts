import { METRICS } from "../core/gates/metrics.js";
import { defineCommand } from "../shared/command.js";

export const gate = defineCommand({
  name: "gate",
  summary: "judge a saved result of kivi bench by limits, without running anything",
  description: [
    "Reads the result file and fails (exit code 1) when a condition holds or its figure is missing. A condition is " +
      "CACHE.METRIC OP NUMBER with < <= > or >=; METRIC[4x1024+32] names a load, without one the worst of all loads " +
      "counts. CACHE.METRIC drop > NUMBER% (or rise) compares with the earlier result of --baseline.",
    "",
    "Metrics:",
    ...METRICS.map(({ name, meaning }) => `  ${name.padEnd(38)}${meaning}`),
  ].join("\n"),
  examples: [
    {
      command: "kivi gate kivi-bench.json --fail-if 'k4v4.capacity_ratio < 3.6'",
      explanation: "exit code 1 when k4v4 holds fewer than 3.6 times the tokens of bf16",
    },
    {
      command: "kivi gate new.json --baseline old.json --fail-if 'k4v4.decode_tokens_per_second drop > 5%'",
      explanation: "two results of the same model, engine and hardware",
    },
    {
      command: "kivi gate kivi-bench.json --config matrix.yaml",
      explanation: "the thresholds of a saved matrix",
    },
  ],
  arguments: [{ name: "file", description: "what kivi bench saved", required: true }],
  options: [
    { flags: "--fail-if <condition>", description: "may be given more than once", repeatable: true },
    { flags: "--config <file>", description: "take thresholds: of this kivi bench configuration too" },
    { flags: "--baseline <file>", description: "an earlier result, for drop and rise" },
  ],
  schema: async () => (await import("./gate.schema.js")).schema,
  handler: async () => (await import("./gate.handler.js")).handler,
});
