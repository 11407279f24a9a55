import { resolve } from "node:path";
import { openResult } from "../core/bench/index.js";
import {
  comparedCaches,
  differences,
  held,
  judge,
  requireAlike,
  requireBaseline,
  requireCaches,
} from "../core/gates/index.js";
import { paint } from "../report/paint.js";
import { renderVerdicts } from "../report/verdicts.js";
import type { Handler } from "../shared/command.js";
import { readConfigFile } from "../shared/config-file.js";
import { usageError } from "../shared/errors.js";
import { fileFields } from "./bench.schema.js";
import type { GateInput } from "./gate.schema.js";

export const handler: Handler<GateInput> = async (input, ctx) => {
  const at = (path: string): string => resolve(ctx.cwd, path);
  const file = input.config === undefined ? {} : await readConfigFile(at(input.config), fileFields);
  const gates = [...(file.thresholds ?? []), ...(input.failIf ?? [])];
  if (gates.length === 0) {
    throw usageError(
      "no-gates",
      "There is nothing to judge by.",
      "Give --fail-if 'k4v4.capacity_ratio < 3.6', or --config with thresholds:.",
    );
  }
  const named = input.baseline ?? file.baseline;
  requireBaseline(gates, named);
  const result = await openResult(at(input.file));
  const baseline = named === undefined ? undefined : await openResult(at(named));
  requireCaches(gates, [result, ...(baseline === undefined ? [] : [baseline])]);
  if (baseline !== undefined && named !== undefined) {
    requireAlike(differences(result, baseline, comparedCaches(gates)), named);
  }
  if (!result.complete) ctx.out.warn(`${input.file} is of a run that did not end.`);
  const report = judge(result, gates, baseline);
  return {
    exitCode: held(report) ? 0 : 1,
    result: { file: at(input.file), baseline: named === undefined ? null : at(named), gates: report },
    render: (out) => out.result(renderVerdicts(report, paint(out))),
  };
};
