import { join } from "node:path";
import type { Context } from "../../shared/context.js";
import { childError } from "../../shared/errors.js";
import { execute, type Plan } from "../../shared/plan.js";
import { checkWritable } from "../bench/result-file.js";
import type { KernelName } from "./names.js";
import { type KernelsResult, readKernels } from "./result.js";

export interface KernelsRequest {
  /** The environment's interpreter. */
  readonly python: string;
  readonly output: string;
  readonly only?: readonly KernelName[] | undefined;
  readonly batches?: readonly number[] | undefined;
  readonly contexts?: readonly number[] | undefined;
  /** Query heads of a KV head. */
  readonly ratios?: readonly number[] | undefined;
  readonly samples?: number | undefined;
  readonly memoryBytes?: number | undefined;
  readonly budgetSeconds?: number | undefined;
  /** Measure this kivi's kernels instead of the installed plugin's. */
  readonly sources?: boolean | undefined;
}

export interface PreparedKernels {
  /** What `--dry-run` prints is what `run` executes. */
  readonly plan: Plan;
  /** The result, and whether all that was asked for could be measured. */
  run(): Promise<{ result: KernelsResult; passed: boolean }>;
}

function words(request: KernelsRequest, logs: string): string[] {
  const { only, batches, contexts, ratios, samples, memoryBytes, budgetSeconds, sources } = request;
  const given: [string, string | number | undefined][] = [
    ["--only", only?.join(",")],
    ["--batches", batches?.join(",")],
    ["--contexts", contexts?.join(",")],
    ["--ratios", ratios?.join(",")],
    ["--samples", samples],
    ["--memory-gib", memoryBytes === undefined ? undefined : memoryBytes / 2 ** 30],
    ["--budget-seconds", budgetSeconds],
  ];
  return [
    ...["--out", request.output, "--logs", logs],
    ...given.flatMap(([flag, value]) => (value === undefined ? [] : [flag, String(value)])),
    ...(sources ? ["--sources"] : []),
  ];
}

/** Lays out a run of the worker, which saves the result itself, after each figure. */
export function prepareKernels(ctx: Context, request: KernelsRequest): PreparedKernels {
  const startedMs = ctx.clock.now();
  const stamp = new Date(startedMs).toISOString().replace(/[-:]|\.\d+Z$/g, "");
  const logs = join(ctx.paths.logDir, `kernels-${stamp}-${process.pid}`);
  const argv: readonly [string, ...string[]] = [
    request.python,
    join(ctx.paths.bench, "kernels.py"),
    ...words(request, logs),
  ];
  let exitCode: number | undefined;
  let last = "";
  const plan: Plan = {
    title: `Measure attention kernels into ${request.output}`,
    actions: [
      {
        title: "Measure decode attention",
        argv,
        path: request.output,
        readOnly: false,
        run: async (_ctx, step) => {
          const finished = await ctx.runner.run(
            { argv },
            {
              signal: ctx.signal,
              env: { VLLM_NO_USAGE_STATS: "1", NO_COLOR: "1", PYTHONDONTWRITEBYTECODE: undefined },
              graceMs: 15_000,
              onLine: (stream, line) => {
                if (stream === "stderr") step.update(line);
              },
            },
          );
          exitCode = finished.exitCode;
          last = finished.tail.at(-1) ?? "";
        },
      },
    ],
  };
  return {
    plan,
    run: async () => {
      await checkWritable(request.output);
      await execute(ctx, plan);
      const result = await readKernels(request.output);
      // An earlier run's file, or half of this one's, is not what was asked for.
      if (!result?.complete || Date.parse(result.createdAt) < startedMs) {
        throw childError("kernels-failed", `The kernel benchmark did not end: ${last}`, `See ${logs}`);
      }
      return { result, passed: exitCode === 0 };
    },
  };
}
