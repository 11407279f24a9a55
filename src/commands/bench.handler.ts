import { resolve } from "node:path";
import {
  type BenchResult,
  openResult,
  type PreparedMatrix,
  passed,
  prepareMatrix,
} from "../core/bench/index.js";
import {
  configDifferences,
  type GateReport,
  held,
  judge,
  requireAlike,
  requireBaseline,
  requireCoverage,
} from "../core/gates/index.js";
import { paint } from "../report/paint.js";
import { renderTable } from "../report/table.js";
import { renderVerdicts } from "../report/verdicts.js";
import type { Handler, Outcome } from "../shared/command.js";
import { readConfigFile } from "../shared/config-file.js";
import type { Context } from "../shared/context.js";
import { usageError } from "../shared/errors.js";
import type { Output } from "../shared/output.js";
import { planDocument, renderPlan } from "../shared/plan.js";
import { type FileInput, matrixConfigs } from "./bench.matrix.js";
import { type BenchInput, fileFields } from "./bench.schema.js";

export const handler: Handler<BenchInput> = async (flags, ctx) => {
  const file: FileInput =
    flags.config === undefined ? {} : await readConfigFile(resolve(ctx.cwd, flags.config), fileFields);
  const model = flags.model?.length ? flags.model : file.model;
  const input = { ...file, ...flags, model };
  const gates = [...(file.thresholds ?? []), ...(flags.failIf ?? [])];
  requireBaseline(gates, input.baseline);
  const configs = await matrixConfigs(ctx, input, file);
  if (configs.length > 1 && input.baseline !== undefined) {
    throw usageError(
      "conflicting-flags",
      `--baseline ${input.baseline} is of one model, and ${configs.length} are to be measured.`,
      "Judge each result by itself: kivi gate RESULT --baseline OLD.json.",
    );
  }
  const matrices: PreparedMatrix[] = [];
  // All of them before any runs: what is wrong with the last one is told at once.
  for (const config of configs) {
    requireCoverage(gates, config);
    matrices.push(await prepareMatrix(ctx, config));
  }
  const [first] = matrices;
  const baseline = first && (await openBaseline(ctx, input.baseline, first.subject));
  if (flags.dryRun) return planned(matrices);

  const measured: Measured[] = [];
  for (const matrix of matrices) {
    const result = await matrix.run();
    measured.push({ result, gates: gates.length === 0 ? undefined : judge(result, gates, baseline) });
  }
  const fine = measured.every((one) => passed(one.result) && (one.gates === undefined || held(one.gates)));
  return {
    exitCode: fine ? 0 : 1,
    result: several(measured.map((one) => ({ ...one.result, ...(one.gates && { gates: one.gates }) }))),
    render: (out) => {
      for (const one of measured) show(one, out);
    },
  } satisfies Outcome;
};

interface Measured {
  readonly result: BenchResult;
  readonly gates: GateReport | undefined;
}

/** One document, as ever, or those of several models. */
function several(documents: readonly object[]): object {
  const [only] = documents;
  return only !== undefined && documents.length === 1 ? only : { results: documents };
}

function planned(matrices: readonly PreparedMatrix[]): Outcome {
  return {
    result: several(matrices.map(({ plan }) => planDocument(plan))),
    render: (out) => {
      for (const { plan } of matrices) renderPlan(out, plan);
    },
  };
}

function show({ result, gates }: Measured, out: Output): void {
  out.result(renderTable(result, paint(out), out.columns));
  if (gates !== undefined) out.result(`\n${renderVerdicts(gates, paint(out))}`);
  out.info(`\nSaved in ${String(result.config.output)}`);
}

/** Reads the earlier result and refuses one of something else; its hardware is compared once ours is known. */
async function openBaseline(
  ctx: Context,
  path: string | undefined,
  subject: PreparedMatrix["subject"],
): Promise<BenchResult | undefined> {
  if (path === undefined) return undefined;
  const baseline = await openResult(resolve(ctx.cwd, path));
  requireAlike(configDifferences(subject, baseline), path);
  return baseline;
}
