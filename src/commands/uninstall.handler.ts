import { planUninstall } from "../core/plugin/index.js";
import { openVenv, resolveVenvPath } from "../core/venv/index.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { execute, planDocument, renderPlan } from "../shared/plan.js";
import type { UninstallInput } from "./uninstall.schema.js";

export async function handler(input: UninstallInput, context: Context): Promise<Outcome> {
  const venv = await openVenv(context, resolveVenvPath(context, input.venv));
  const plan = planUninstall(venv, { force: input.force });
  if (input.dryRun) {
    return { result: { dryRun: true, ...planDocument(plan) }, render: (out) => renderPlan(out, plan) };
  }
  await execute(context, plan);
  const report = plan.report();
  return {
    exitCode: report.kept.length > 0 ? 1 : 0,
    result: { ...report, venv: venv.path },
    render: (out) => {
      if (report.outcome === "absent") {
        out.result(`vllm-kivi is not installed in ${venv.path}; nothing to do.`);
        return;
      }
      out.result(
        `${out.colour.green("ok")} Removed vllm-kivi ${report.version} from ${venv.path} (${report.removed} files)`,
      );
      if (report.kept.length === 0) return;
      out.warn(
        `kept, since they were changed by hand:\n${report.kept.map((path) => `  ${path}`).join("\n")}`,
      );
      out.info(`Remove them yourself when you no longer need them.`);
    },
  };
}
