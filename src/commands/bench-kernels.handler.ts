import { resolve } from "node:path";
import { KERNEL_NAMES, prepareKernels } from "../core/kernels/index.js";
import { PRESET_NAMES } from "../core/plugin/presets.js";
import { checkPlugin } from "../core/server/index.js";
import { openVenv, requireVllm, resolveVenvPath } from "../core/venv/index.js";
import { renderKernels } from "../report/kernels.js";
import { paint } from "../report/paint.js";
import type { Handler, Outcome } from "../shared/command.js";
import { planDocument, renderPlan } from "../shared/plan.js";
import type { BenchKernelsInput } from "./bench-kernels.schema.js";

export const handler: Handler<BenchKernelsInput> = async (input, ctx) => {
  const venv = await openVenv(ctx, resolveVenvPath(ctx, input.venv));
  requireVllm(venv);
  const kernels = input.only ?? KERNEL_NAMES;
  const ours = kernels.some((name) => PRESET_NAMES.some((preset) => name.startsWith(preset)));
  if (ours && !input.sources) checkPlugin(ctx, venv);
  const { dryRun, memory, output, ...rest } = input;
  const path = resolve(ctx.cwd, output ?? "kivi-kernels.json");
  const prepared = prepareKernels(ctx, {
    ...rest,
    python: venv.python,
    output: path,
    memoryBytes: memory,
  });
  if (dryRun) {
    return { result: planDocument(prepared.plan), render: (out) => renderPlan(out, prepared.plan) };
  }
  const { result, passed } = await prepared.run();
  return {
    exitCode: passed ? 0 : 1,
    result,
    render: (out) => {
      out.result(renderKernels(result, paint(out)));
      out.info(`\nSaved in ${path}`);
    },
  } satisfies Outcome;
};
