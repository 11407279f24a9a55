import { PRESETS, type Preset } from "../plugin/presets.js";
import { KIVI_BLOCK, plainPageBytes, recordBytes, stagingBytesPerSequence } from "./layout.js";
import type { Layer, ModelShape } from "./model.js";
import type { Weights } from "./weights.js";

export interface PlanRequest {
  /** Bytes of one GPU. */
  readonly memoryBytes: number;
  readonly utilization: number;
  readonly tensorParallel: number;
  /** Tokens of a sequence. */
  readonly context: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  /** Instead of the estimate of what a forward pass needs. */
  readonly reserveBytes?: number | undefined;
}

export interface CacheFigures {
  readonly cache: string;
  readonly blockSize: number;
  /** Of layers that keep all tokens, on one GPU. */
  readonly bytesPerToken: number;
  /** Open groups, open runs and windows, for `maxNumSeqs` sequences, on one GPU. */
  readonly stagingBytes: number;
  /** What is left for pages after staging; not positive means that the model does not fit. */
  readonly cacheBytes: number;
  readonly tokens: number;
  /** Sequences of `context` tokens held at once. */
  readonly concurrency: number;
}

/** The memory of one GPU. */
export interface Budget {
  readonly usableBytes: number;
  readonly weightBytes: number;
  readonly reserveBytes: number;
  readonly leftBytes: number;
}

export interface CapacityPlan {
  readonly budget: Budget;
  readonly layers: { readonly full: number; readonly sliding: number; readonly state: number };
  readonly kvHeadsPerGpu: number;
  readonly caches: readonly CacheFigures[];
}

/** vLLM's own caches on CUDA. */
const PLAIN_BLOCK = 16;

interface Format {
  readonly cache: string;
  readonly blockSize: number;
  /** Bytes of a page of one layer that keeps all tokens. */
  page(model: ModelShape, kvHeads: number): number;
  /** Element size of the layers that KIVI leaves to vLLM. */
  readonly plainBytes: (model: ModelShape) => number;
  readonly preset?: Preset;
}

function plain(cache: string, bytes: (model: ModelShape) => number): Format {
  return {
    cache,
    blockSize: PLAIN_BLOCK,
    page: (model, kvHeads) => kvHeads * plainPageBytes(model.headSize, bytes(model), PLAIN_BLOCK),
    plainBytes: bytes,
  };
}

const FORMATS: readonly Format[] = [
  plain("bf16", (model) => model.elementBytes),
  plain("fp8", () => 1),
  ...Object.entries(PRESETS).map(
    ([cache, preset]): Format => ({
      cache,
      blockSize: KIVI_BLOCK,
      page: (model, kvHeads) => kvHeads * recordBytes(preset, model.headSize),
      plainBytes: (model) => model.elementBytes,
      preset,
    }),
  ),
];

/**
 * An estimate of what vLLM reserves beside weights and cache: the widest activations of one step (MLP and residual
 * stream, for the largest batch of tokens) and the logits of all sequences. Against one measurement, Llama-8B on an
 * H200: 2.0 GiB for 2.1 GiB.
 */
export function estimateReserve(model: ModelShape, request: PlanRequest): number {
  const width = Math.max(model.intermediateSize, model.experts?.intermediateSize ?? 0);
  const perToken = (2 * width) / request.tensorParallel + 2 * model.hiddenSize;
  const activations = request.maxNumBatchedTokens * perToken * model.elementBytes;
  const logits = request.maxNumSeqs * model.vocabulary * (4 + model.elementBytes);
  return Math.round(activations + logits);
}

/** Tokens held and sequences at once for every cache; all figures are of one GPU, which is also the whole answer. */
export function planCapacity(model: ModelShape, weights: Weights, request: PlanRequest): CapacityPlan {
  // With more GPUs than KV heads, vLLM keeps a copy of a head on several of them.
  const kvHeads = Math.max(1, Math.ceil(model.kvHeads / request.tensorParallel));
  const usableBytes = Math.floor(request.memoryBytes * request.utilization);
  const weightBytes = Math.ceil(weights.bytes / request.tensorParallel);
  const reserveBytes = request.reserveBytes ?? estimateReserve(model, request);
  const budget = {
    usableBytes,
    weightBytes,
    reserveBytes,
    leftBytes: usableBytes - weightBytes - reserveBytes,
  };
  const count = (kind: Layer["kind"]): number => model.layers.filter((layer) => layer.kind === kind).length;
  const layers = { full: count("full"), sliding: count("sliding"), state: count("state") };
  const caches = FORMATS.map((format) =>
    figures(format, model, request, { kvHeads, full: layers.full, budget }),
  );
  return { budget, layers, kvHeadsPerGpu: kvHeads, caches };
}

function figures(
  format: Format,
  model: ModelShape,
  request: PlanRequest,
  about: { kvHeads: number; full: number; budget: Budget },
): CacheFigures {
  const { kvHeads, full } = about;
  // One ring more than sequences: the plugin's scratch.
  const rings = full * (request.maxNumSeqs + 1);
  const { headSize } = model;
  const stagingBytes =
    format.preset === undefined ? 0 : rings * stagingBytesPerSequence(format.preset, { kvHeads, headSize });
  const cacheBytes = about.budget.leftBytes - stagingBytes;
  const pages = full * format.page(model, kvHeads);
  const fixed = fixedBytes(model.layers, request, {
    kvHeads,
    tokenBytes: 2 * kvHeads * model.headSize * format.plainBytes(model),
    tensorParallel: request.tensorParallel,
  });
  const blocks = Math.ceil(request.context / format.blockSize);
  const perSequence = blocks * pages + fixed;
  const room = Math.max(0, cacheBytes);
  // A model of one kind of layer holds whole blocks; a mixed one is counted in whole sequences, as vLLM does.
  const tokens =
    fixed === 0 && pages > 0
      ? Math.floor(room / pages) * format.blockSize
      : Math.floor((room / perSequence) * request.context);
  return {
    cache: format.cache,
    blockSize: format.blockSize,
    bytesPerToken: pages / format.blockSize,
    stagingBytes,
    cacheBytes,
    tokens,
    concurrency: Math.floor(room / perSequence),
  };
}

/** Bytes of a sequence in the layers that do not grow with it: windows in vLLM's own cache, and states. */
function fixedBytes(
  layers: readonly Layer[],
  request: PlanRequest,
  about: { kvHeads: number; tokenBytes: number; tensorParallel: number },
): number {
  let bytes = 0;
  for (const layer of layers) {
    if (layer.kind === "state") bytes += layer.bytes / about.tensorParallel;
    if (layer.kind === "sliding") {
      // vLLM keeps the window and what one step may add to it, in whole blocks and one more.
      const kept = Math.min(layer.window - 1 + request.maxNumBatchedTokens, request.context);
      bytes += (Math.ceil(kept / PLAIN_BLOCK) + 1) * PLAIN_BLOCK * about.tokenBytes;
    }
  }
  return bytes;
}
