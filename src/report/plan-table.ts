/** Capacity on paper as text: a pure function of the plan's result. */
import type { CapacityPlan } from "../core/plan/index.js";
import { bytes, figure, ratio, whole } from "./format.js";
import { layOut } from "./grid.js";
import { type Paint, PLAIN } from "./table.js";

export interface PlanResult extends CapacityPlan {
  readonly model: {
    readonly source: string;
    readonly modelType: string;
    readonly partOf?: string | undefined;
  };
  readonly gpu: { readonly name: string; readonly memoryBytes: number; readonly count: number };
  readonly weights: {
    readonly bytes: number;
    readonly source: "files" | "estimate";
    readonly parameters?: number | undefined;
  };
  readonly reserveSource: "given" | "estimate";
  readonly settings: {
    readonly utilization: number;
    readonly context: number;
    readonly maxNumSeqs: number;
    readonly maxNumBatchedTokens: number;
  };
  readonly notes: readonly string[];
}

function memory(plan: PlanResult): string[][] {
  const { budget, gpu, weights, settings } = plan;
  const known =
    weights.source === "files"
      ? "size of the weight files"
      : `estimate, ${billions(weights.parameters ?? 0)} parameters`;
  return [
    ["memory of a GPU", bytes(gpu.memoryBytes), gpu.name],
    [`usable at ${settings.utilization}`, bytes(budget.usableBytes), ""],
    ["weights", bytes(-budget.weightBytes), known],
    [
      "activations, logits",
      bytes(-budget.reserveBytes),
      plan.reserveSource === "given"
        ? "given"
        : `estimate for ${whole(settings.maxNumBatchedTokens)} tokens and ${whole(settings.maxNumSeqs)} sequences a step`,
    ],
    ["left for the cache", bytes(budget.leftBytes), ""],
  ];
}

function billions(count: number): string {
  return `${figure(count / 1e9)} billion`;
}

export function renderPlan(plan: PlanResult, paint: Paint = PLAIN): string {
  const { settings, gpu } = plan;
  const part = plan.model.partOf === undefined ? "" : `, the text part of ${plan.model.partOf}`;
  const rows = memory(plan).map(([name = "", size = "", note = ""]) =>
    `  ${name.padEnd(20)} ${size.padStart(11)}  ${paint.quiet(note)}`.trimEnd(),
  );
  const base = plan.caches[0];
  const table = layOut({
    head: ["cache", "bytes/token", "", "staging", "tokens held", "", `seqs of ${whole(settings.context)}`],
    rows: plan.caches.map((cache) => ({
      cells: [
        cache.cache,
        figure(cache.bytesPerToken),
        base === undefined || base.bytesPerToken === 0 ? "" : ratio(cache.bytesPerToken, base.bytesPerToken),
        cache.stagingBytes === 0 ? "-" : bytes(cache.stagingBytes),
        whole(cache.tokens),
        base === undefined || base.tokens === 0 ? "" : ratio(cache.tokens, base.tokens),
        whole(cache.concurrency),
      ],
    })),
  });
  const gpus = gpu.count === 1 ? "1 GPU" : `${gpu.count} GPUs (figures of bytes are of one)`;
  return [
    paint.title(`${plan.model.source} (${plan.model.modelType}${part}) on ${gpus}`),
    ...rows,
    "",
    ...table.map((line, index) => (index === 0 ? paint.quiet(line) : line)),
    "",
    paint.quiet(
      `Staging keeps the open keys and values and the windows of ${whole(settings.maxNumSeqs)} sequences in eight bits (--max-num-seqs).`,
    ),
    ...plan.notes.map((note) => paint.quiet(note)),
  ].join("\n");
}
