import { type GenerateReport, planGenerate } from "../core/plugin/index.js";
import type { Outcome } from "../shared/command.js";
import type { Context } from "../shared/context.js";
import { execute, planDocument, renderPlan } from "../shared/plan.js";
import { showCommand } from "../shared/process.js";
import type { GenerateInput } from "./generate.schema.js";

export async function handler(input: GenerateInput, context: Context): Promise<Outcome> {
  const { deploy } = input;
  const image = deploy?.image ?? `vllm-kivi:${context.version}`;
  const plan = await planGenerate(context, input.dir, {
    wheel: input.wheel,
    deploy: deploy === undefined ? undefined : { ...deploy, image },
  });
  if (input.dryRun) {
    return { result: { dryRun: true, ...planDocument(plan) }, render: (out) => renderPlan(out, plan) };
  }
  await execute(context, plan);
  const report = plan.report();
  const what = deploy === undefined ? "" : "a deployment of ";
  const next = deploy === undefined ? nextBuild(report) : nextDeploy(report, image);
  return {
    result: deploy === undefined ? report : { ...report, image },
    render: (out) => {
      out.result(
        `${out.colour.green("ok")} Wrote ${what}vllm-kivi ${report.version} to ${report.path} (${report.files.length} files)`,
      );
      out.result(`   next: ${next}`);
    },
  };
}

function nextBuild({ path }: GenerateReport): string {
  return `${showCommand(["uv", "build", "--wheel", path])}, or ${showCommand(["pip", "wheel", path])}`;
}

function nextDeploy({ path }: GenerateReport, image: string): string {
  const compose = ["docker", "compose", "--project-directory", path, "up", "--build"];
  return `${showCommand(compose)}, or for Kubernetes ${showCommand(["docker", "build", "--tag", image, path])}`;
}
