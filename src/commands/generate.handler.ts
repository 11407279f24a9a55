import { planGenerate } from "../core/plugin/index.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { execute, planDocument, renderPlan } from "../shared/plan.js";
import type { GenerateInput } from "./generate.schema.js";

export async function handler(input: GenerateInput, context: Context): Promise<Outcome> {
  const plan = await planGenerate(context, input.dir, { wheel: input.wheel });
  if (input.dryRun) {
    return { result: { dryRun: true, ...planDocument(plan) }, render: (out) => renderPlan(out, plan) };
  }
  await execute(context, plan);
  const report = plan.report();
  return {
    result: report,
    render: (out) => {
      out.result(
        `${out.colour.green("ok")} Wrote vllm-kivi ${report.version} to ${report.path} (${report.files.length} files)`,
      );
      out.result(`   next: uv build --wheel ${report.path}, or pip wheel ${report.path}`);
    },
  };
}
