import { examine } from "../core/doctor/index.js";
import { resolveVenvPath } from "../core/venv/index.js";
import { renderChecks } from "../report/checks.js";
import type { Handler } from "../shared/command.js";
import { usageError } from "../shared/errors.js";
import type { DoctorInput } from "./doctor.schema.js";

export const handler: Handler<DoctorInput> = async (input, context) => {
  if (input.rest.length > 0 && input.model === undefined) {
    throw usageError(
      "missing-model",
      `Words for vLLM (${input.rest.join(" ")}) are checked with a model, and none is given.`,
      "Add --model FOLDER before the --.",
    );
  }
  const path = resolveVenvPath(context, input.venv);
  const report = await examine(context, path, {
    model: input.model,
    vllmArgs: input.rest,
    fix: input.fix,
  });
  return {
    exitCode: report.healthy ? 0 : 1,
    result: report,
    render: (out) => out.result(renderChecks(report, out)),
  };
};
