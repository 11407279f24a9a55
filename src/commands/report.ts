import { defineCommand } from "../shared/command.js";

export const report = defineCommand({
  name: "report",
  summary: "render saved results of kivi bench as a table, a page or a CI report",
  description:
    "Reads the files that kivi bench saved and shows them again, without a GPU or vLLM; several files stand side by side. " +
    "Results of unlike models, engine settings or hardware are refused; one of kivi bench kernels stands by itself. The exit code is 0 once the report is written, " +
    "whatever the result says.",
  examples: [
    {
      command: "kivi report kivi-bench.json --format html --output report.html",
      explanation: "one page with plots that needs no network",
    },
    {
      command: "kivi report before.json after.json --format markdown",
      explanation: "two results side by side, for a pull request",
    },
    {
      command: "kivi report kivi-bench.json --format github",
      explanation: "in GitHub Actions: annotations, and a job summary in $GITHUB_STEP_SUMMARY",
    },
  ],
  arguments: [{ name: "files", description: "result files of kivi bench", required: true, variadic: true }],
  options: [
    {
      flags: "--format <name>",
      description: "table, markdown, csv, junit, github, html, json",
      defaultText: "table",
    },
    { flags: "--output <file>", description: "write the report there", defaultText: "standard output" },
    { flags: "--force", description: "show results side by side that cannot be compared, marked as such" },
  ],
  schema: async () => (await import("./report.schema.js")).schema,
  handler: async () => (await import("./report.handler.js")).handler,
});
