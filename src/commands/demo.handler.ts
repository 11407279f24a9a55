import { passed } from "../core/bench/index.js";
import { DEFAULT_QUESTION, type DemoView, runDemo } from "../core/demo/index.js";
import { answerSummary } from "../report/answer.js";
import { serverSummary } from "../report/server.js";
import { PLAIN, renderTable } from "../report/table.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import type { Output } from "../shared/output.js";
import { seconds } from "../shared/progress.js";
import type { DemoInput } from "./demo.schema.js";

/** Everything but the table is shown when it happens. */
function liveView(out: Output, asked: string): DemoView {
  return {
    serving: (server) => out.result(`\n${serverSummary(server, "SmolLM2-135M-Instruct", out.colour)}\n`),
    asking: () => {
      out.result(out.colour.bold(`Q: ${asked}`));
      out.resultPart("A: ");
    },
    text: (piece) => out.resultPart(piece),
    answered: (answer, cache) => out.result(`\n${out.colour.dim(answerSummary(answer, cache))}\n`),
  };
}

export async function handler(input: DemoInput, context: Context): Promise<Outcome> {
  const { out } = context;
  const question = input.question ?? DEFAULT_QUESTION;
  const result = await runDemo(
    context,
    input,
    liveView(out, input.question ?? `${DEFAULT_QUESTION} (asked about a letter of 180 words)`),
  );
  const { environment, matrix, ...rest } = result;
  const { venv, reused } = environment;
  return {
    exitCode: matrix === undefined || passed(matrix) ? 0 : 1,
    result: {
      kind: "kivi-demo",
      version: 1,
      question,
      environment: { path: venv.path, reused },
      ...rest,
      matrix,
    },
    render: () => {
      if (matrix !== undefined) out.result(renderTable(matrix, PLAIN, out.columns));
      out.info(`\nDone in ${seconds(result.totalMs)}. Everything made is kept in ${context.paths.cacheDir}`);
      out.info(`Serve it yourself: kivi serve ${result.model.path} --venv ${venv.path} -- --enforce-eager`);
    },
  };
}
