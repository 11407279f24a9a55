import {
  type CapacityPlan,
  estimateWeights,
  GPUS,
  type ModelShape,
  openModel,
  planCapacity,
  readModel,
  type Weights,
} from "../core/plan/index.js";
import { type PlanResult, renderPlan } from "../report/plan-table.js";
import { PLAIN } from "../report/table.js";
import type { Handler } from "../shared/command.js";
import { KiviError, usageError } from "../shared/errors.js";
import type { PlanInput } from "./plan.schema.js";

export const handler: Handler<PlanInput> = async (input, ctx) => {
  if (input.gpu !== undefined && input.memory !== undefined) {
    throw usageError(
      "conflicting-flags",
      "--gpu and --memory both say how much memory there is.",
      "Give one of them.",
    );
  }
  const gpu = input.gpu ?? "h100";
  const memoryBytes = input.memory ?? GPUS[gpu];
  const source = await openModel(ctx, input.model);
  const model = readModel(source.config, source.where);
  if (model.heads % input.tensorParallel !== 0) {
    throw usageError(
      "tensor-parallel-unfit",
      `--tensor-parallel ${input.tensorParallel} does not divide the model's ${model.heads} heads.`,
    );
  }
  const weights: Weights =
    source.weightBytes === undefined
      ? estimateWeights(model)
      : { bytes: source.weightBytes, source: "files" };
  const context = input.context ?? Math.min(8192, model.maxPositions ?? 8192);
  const settings = {
    utilization: input.utilization,
    context,
    maxNumSeqs: input.maxNumSeqs,
    maxNumBatchedTokens: input.maxBatchedTokens,
  };
  const capacity = planCapacity(model, weights, {
    ...settings,
    memoryBytes,
    tensorParallel: input.tensorParallel,
    reserveBytes: input.reserve,
  });
  refuseOverflow(capacity, input);
  const result: PlanResult = {
    model: { source: input.model, modelType: model.modelType, partOf: model.partOf },
    gpu: { name: input.memory === undefined ? gpu : "given", memoryBytes, count: input.tensorParallel },
    weights,
    reserveSource: input.reserve === undefined ? "estimate" : "given",
    settings,
    ...capacity,
    notes: notes(model, capacity, context),
  };
  return {
    result,
    render: (out) =>
      out.result(
        renderPlan(
          result,
          out.colour.level === 0
            ? PLAIN
            : { title: out.colour.bold, bad: out.colour.red, quiet: out.colour.dim },
        ),
      ),
  };
};

/** A model that leaves no memory for a cache is a finding, and one that says what would fit. */
function refuseOverflow({ budget }: CapacityPlan, input: PlanInput): void {
  if (budget.leftBytes > 0) return;
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
  throw new KiviError(
    `The model does not fit: ${gib(budget.usableBytes)} GiB usable, ${gib(budget.weightBytes)} GiB of weights and ` +
      `${gib(budget.reserveBytes)} GiB of activations on each GPU.`,
    {
      code: "model-does-not-fit",
      exitCode: 1,
      hint: `Use a larger --gpu, or --tensor-parallel ${input.tensorParallel * 2}.`,
      details: { budget },
    },
  );
}

/** One part in this many of the memory that vLLM may use, as the plugin limits it on a GPU (vllm_kivi/cache/slot_limit.py). */
const STAGING_SHARE = 20;

function notes(model: ModelShape, { layers, caches, budget }: CapacityPlan, context: number): string[] {
  const found: string[] = [];
  const own = layers.sliding + layers.state;
  if (layers.full === 0) {
    found.push("No layer keeps all tokens: KIVI has nothing to quantize in this model.");
  } else if (own > 0) {
    const kinds = [
      layers.sliding > 0 ? `${layers.sliding} with a sliding window` : "",
      layers.state > 0 ? `${layers.state} with a state of fixed size` : "",
    ].filter((kind) => kind !== "");
    found.push(
      `${own} of ${model.layers.length} layers (${kinds.join(", ")}) keep vLLM's own cache; tokens held are counted in ` +
        "sequences of the context length. vLLM pads pages of unequal size, so a mixed model holds somewhat less.",
    );
    if (layers.state > 0) {
      found.push(
        "The plugin refuses models with state-space layers until they are tested: for now the KIVI rows say what there " +
          "is to gain.",
      );
    }
  }
  if (model.partOf !== undefined) {
    found.push(
      `Weights of ${model.partOf} beside its text part are counted only when weight files are there.`,
    );
  }
  if (model.maxPositions !== undefined && context > model.maxPositions) {
    found.push(`The model's own limit is ${model.maxPositions} tokens.`);
  }
  const starved = caches.filter((cache) => cache.cacheBytes <= 0).map((cache) => cache.cache);
  const greedy = caches.filter((cache) => cache.stagingBytes > budget.usableBytes / STAGING_SHARE);
  if (greedy.length > 0) {
    found.push(
      `The plugin lowers --max-num-seqs for ${greedy.map((cache) => cache.cache).join(", ")}: staging may take 1/${STAGING_SHARE} of the usable memory.`,
    );
  }
  if (starved.length > 0) {
    found.push(`Staging leaves no memory for ${starved.join(", ")}: lower --max-num-seqs.`);
  }
  return found;
}
