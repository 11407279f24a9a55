import { join, resolve } from "node:path";
import { type InstallReport, planInstall } from "../core/plugin/index.js";
import { finishAction, planEnvironment } from "../core/venv/create.js";
import { openVenv, resolveVenvPath } from "../core/venv/index.js";
import { findOnPath } from "../core/venv/python.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import type { Output } from "../shared/output.js";
import { execute, type Plan, planDocument, renderPlan } from "../shared/plan.js";
import type { InstallInput } from "./install.schema.js";

async function makePlan(input: InstallInput, context: Context): Promise<Plan & { report(): InstallReport }> {
  if (!input.create) {
    const venv = await openVenv(context, resolveVenvPath(context, input.venv));
    return planInstall(context, venv.path, { existing: venv, force: input.force });
  }
  const path = resolve(context.cwd, input.venv ?? join(context.cwd, ".venv"));
  const device = input.device ?? (findOnPath(context.env, "nvidia-smi") ? "cuda" : "cpu");
  const environment = await planEnvironment(context, {
    path,
    device,
    vllmVersion: input.vllm,
    python: input.python,
  });
  const plugin = await planInstall(context, path, { existing: undefined, bytecode: true });
  return {
    title: `${environment.title}, then install the plugin`,
    actions: [...environment.actions, ...plugin.actions, finishAction(path)],
    report: () => plugin.report(),
  };
}

function render(out: Output, report: InstallReport): void {
  const { colour } = out;
  const what = {
    installed: "Installed",
    upgraded: `Upgraded from ${report.previous} to`,
    reinstalled: "Installed again:",
    unchanged: "Already installed and intact:",
  }[report.outcome];
  const { venv, status } = report;
  out.result(`${colour.green("ok")} ${what} vllm-kivi ${report.version} in ${venv.path}`);
  out.result(
    `   vLLM ${status.vllm} (Python ${venv.pythonVersion}) loads it; presets: ${status.presets.join(", ")}`,
  );
  out.result(`   next: kivi serve MODEL --venv ${venv.path}`);
}

export async function handler(input: InstallInput, context: Context): Promise<Outcome> {
  const plan = await makePlan(input, context);
  if (input.dryRun) {
    return { result: { dryRun: true, ...planDocument(plan) }, render: (out) => renderPlan(out, plan) };
  }
  await execute(context, plan);
  const report = plan.report();
  const { venv, ...rest } = report;
  return {
    result: { ...rest, venv: { path: venv.path, python: venv.pythonVersion, vllm: venv.vllm } },
    render: (out) => render(out, report),
  };
}
