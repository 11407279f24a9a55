import type { ModelShape } from "./model.js";

/** Weights in bytes over all ranks, and how that is known. */
export interface Weights {
  readonly bytes: number;
  readonly source: "files" | "estimate";
  /** Parameters of the estimate. */
  readonly parameters?: number;
}

function linearAttention(raw: Readonly<Record<string, unknown>>, hidden: number): number {
  const of = (key: string): number => Number(raw[key] ?? 0);
  if (raw.mamba_d_state !== undefined) {
    const inner = of("mamba_n_heads") * of("mamba_d_head");
    const projected = 2 * inner + 2 * of("mamba_n_groups") * of("mamba_d_state") + of("mamba_n_heads");
    return hidden * (projected + inner);
  }
  const keys = of("linear_num_key_heads") * of("linear_key_head_dim");
  const values = of("linear_num_value_heads") * of("linear_value_head_dim");
  return hidden * (2 * keys + 3 * values + 2 * of("linear_num_value_heads"));
}

/** Parameters counted from the matrices that the config implies; norms and biases, under 0.1 %, are left out. */
export function estimateParameters(model: ModelShape): number {
  const { hiddenSize, heads, kvHeads, headSize, experts } = model;
  const matrices = model.gated ? 3 : 2;
  const attention = hiddenSize * headSize * 2 * (heads + kvHeads);
  const states = model.layers.filter((layer) => layer.kind === "state").length;
  const mixers = (model.layers.length - states) * attention + states * linearAttention(model.raw, hiddenSize);
  const dense = matrices * hiddenSize * model.intermediateSize;
  const sparse =
    experts === undefined
      ? 0
      : hiddenSize *
        (matrices * (experts.count * experts.intermediateSize + experts.sharedIntermediateSize) +
          experts.count);
  const sparseLayers = experts?.layers ?? 0;
  const mlps = sparseLayers * sparse + (model.layers.length - sparseLayers) * dense;
  const embeddings = model.vocabulary * hiddenSize * (model.tiedEmbeddings ? 1 : 2);
  return embeddings + mixers + mlps;
}

/** Bytes of a weight in a matrix, by the checkpoint's own word on its quantization; scales included. */
function bytesPerWeight(model: ModelShape): number {
  const quantization = model.raw.quantization_config as Record<string, unknown> | null | undefined;
  if (quantization == null) return model.elementBytes;
  const bits = Number(quantization.bits ?? quantization.w_bit);
  const method = String(quantization.quant_method ?? "");
  if (bits > 0) return (bits / 8) * 1.05;
  if (/fp8/i.test(method)) return 1.01;
  if (/mxfp4|nvfp4|fp4/i.test(method)) return 0.55;
  return model.elementBytes;
}

export function estimateWeights(model: ModelShape): Weights {
  const parameters = estimateParameters(model);
  const embeddings = model.vocabulary * model.hiddenSize * (model.tiedEmbeddings ? 1 : 2);
  const bytes = embeddings * model.elementBytes + (parameters - embeddings) * bytesPerWeight(model);
  return { bytes: Math.round(bytes), source: "estimate", parameters };
}
