import { usageError } from "../../shared/errors.js";
import { didYouMean } from "../../shared/suggest.js";
import { FAMILIES, type Family } from "./families.js";

/** What one layer keeps of a sequence. */
export type Layer =
  | { readonly kind: "full" }
  /** The newest `window` tokens. */
  | { readonly kind: "sliding"; readonly window: number }
  /** A state of fixed size, whatever the length: Mamba, linear attention. */
  | { readonly kind: "state"; readonly bytes: number };

/** The numbers of a config.json that decide cache and weights. */
export interface ModelShape {
  readonly modelType: string;
  readonly layers: readonly Layer[];
  readonly hiddenSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headSize: number;
  readonly intermediateSize: number;
  readonly vocabulary: number;
  readonly tiedEmbeddings: boolean;
  readonly gated: boolean;
  readonly elementBytes: number;
  readonly maxPositions: number | undefined;
  readonly experts?: {
    readonly count: number;
    readonly intermediateSize: number;
    readonly sharedIntermediateSize: number;
    /** Layers that have experts instead of one MLP. */
    readonly layers: number;
  };
  /** The part of a larger model that writes text: weights beside it are not in the estimate. */
  readonly partOf?: string;
  readonly raw: Readonly<Record<string, unknown>>;
}

const MOST_LAYERS = 10_000;

type Raw = Record<string, unknown>;

function refuse(where: string, why: string, hint?: string): never {
  throw usageError("model-unsupported", `${where}: ${why}`, hint);
}

/** Reads a config.json; refuses what KIVI or this arithmetic does not know, with the reason. */
export function readModel(document: unknown, where: string): ModelShape {
  if (typeof document !== "object" || document === null || Array.isArray(document)) {
    refuse(where, "expected a JSON object.", "Name a model's config.json or the folder that holds it.");
  }
  const outer = document as Raw;
  const inner = outer.text_config;
  const nested = typeof inner === "object" && inner !== null;
  const raw: Raw = nested ? { ...(inner as Raw) } : { ...outer };
  // Some multimodal configs name dtype and tying only on the outside.
  for (const key of ["dtype", "torch_dtype", "tie_word_embeddings", "quantization_config"])
    raw[key] ??= outer[key];

  const modelType = typeof raw.model_type === "string" ? raw.model_type : String(outer.model_type ?? "");
  if (modelType === "")
    refuse(where, 'it has no "model_type".', "Name a model's config.json or the folder that holds it.");
  if (typeof raw.kv_lora_rank === "number") {
    refuse(
      where,
      `${modelType} uses multi-head latent attention (kv_lora_rank ${raw.kv_lora_rank}), whose cache has no keys and values for KIVI to quantize.`,
      "Serve it with vLLM's own cache.",
    );
  }
  const family = Object.hasOwn(FAMILIES, modelType) ? FAMILIES[modelType] : undefined;
  if (family === undefined) {
    const known = Object.keys(FAMILIES);
    refuse(
      where,
      `the model type "${modelType}" is not known.${didYouMean(modelType, known)}`,
      `Known: ${known.join(", ")}`,
    );
  }
  for (const [key, value] of Object.entries(family.defaults ?? {})) raw[key] ??= value;

  const number = (key: string): number => {
    const value = raw[key];
    if (typeof value === "number" && Number.isInteger(value) && value > 0) return value;
    refuse(where, `"${key}" must be a positive whole number, found ${JSON.stringify(value) ?? "nothing"}.`);
  };
  const heads = number("num_attention_heads");
  const hiddenSize = number("hidden_size");
  const headSize = raw.head_dim == null ? hiddenSize / heads : number("head_dim");
  if (headSize % 8 !== 0) refuse(where, `the head size ${headSize} is not a multiple of 8.`);
  const kvHeads = raw.num_key_value_heads == null ? heads : number("num_key_value_heads");
  if (heads % kvHeads !== 0) refuse(where, `${heads} heads do not divide into ${kvHeads} KV heads.`);
  const elementBytes = dtypeBytes(raw, where);
  const layerCount = number("num_hidden_layers");
  if (layerCount > MOST_LAYERS) refuse(where, `"num_hidden_layers" is ${layerCount}, which no model has.`);
  const layers = layerKinds(raw, family, layerCount, elementBytes, where);
  const experts = readExperts(raw, layers.length);
  return {
    modelType,
    layers,
    hiddenSize,
    heads,
    kvHeads,
    headSize,
    intermediateSize:
      raw.intermediate_size == null && experts !== undefined ? 0 : number("intermediate_size"),
    vocabulary: number("vocab_size"),
    tiedEmbeddings: raw.tie_word_embeddings === true,
    gated: family.gated !== false,
    elementBytes,
    maxPositions: typeof raw.max_position_embeddings === "number" ? raw.max_position_embeddings : undefined,
    ...(experts === undefined ? {} : { experts }),
    ...(nested ? { partOf: String(outer.model_type ?? "a larger model") } : {}),
    raw,
  };
}

function dtypeBytes(raw: Raw, where: string): number {
  const name = String(raw.dtype ?? raw.torch_dtype ?? "bfloat16").replace(/^torch\./, "");
  if (name === "bfloat16" || name === "float16") return 2;
  // vLLM runs a float32 checkpoint in 16 bits unless it is told otherwise.
  if (name === "float32" || name === "auto") return 2;
  refuse(where, `the dtype "${name}" is not known.`);
}

function layerKinds(raw: Raw, family: Family, count: number, elementBytes: number, where: string): Layer[] {
  const given = raw.layer_types;
  const window = typeof raw.sliding_window === "number" ? raw.sliding_window : undefined;
  const state = (): Layer => ({ kind: "state", bytes: stateBytes(raw, elementBytes, where) });
  if (Array.isArray(given)) {
    if (given.length !== count) refuse(where, `"layer_types" names ${given.length} layers of ${count}.`);
    return given.map((name): Layer => {
      if (name === "full_attention" || name === "attention") return { kind: "full" };
      if (name === "linear_attention" || name === "mamba") return state();
      if (name === "sliding_attention" && window !== undefined) return { kind: "sliding", window };
      return refuse(where, `"layer_types" has "${String(name)}", which is not known here.`);
    });
  }
  const interval = raw.full_attention_interval;
  const isState = (index: number): boolean => typeof interval === "number" && (index + 1) % interval !== 0;
  return Array.from({ length: count }, (_, index): Layer => {
    if (isState(index)) return state();
    return window !== undefined && slides(raw, family, index)
      ? { kind: "sliding", window }
      : { kind: "full" };
  });
}

function slides(raw: Raw, family: Family, index: number): boolean {
  const pattern = raw.sliding_window_pattern;
  switch (family.sliding) {
    case "never":
      return false;
    case "all":
      return true;
    case "even":
      return index % 2 === 0;
    case "upper":
      return raw.use_sliding_window === true && index >= Number(raw.max_window_layers ?? 0);
    case "pattern":
      return typeof pattern === "number" && (index + 1) % pattern !== 0;
  }
}

/** Bytes of the recurrent and the convolution state of one sequence and layer. */
function stateBytes(raw: Raw, elementBytes: number, where: string): number {
  const read = (key: string): number => {
    const value = raw[key];
    if (typeof value === "number" && value > 0) return value;
    refuse(where, `a layer keeps a state, but "${key}" is ${JSON.stringify(value) ?? "missing"}.`);
  };
  if (raw.mamba_d_state !== undefined) {
    const inner = read("mamba_n_heads") * read("mamba_d_head");
    const convolved = inner + 2 * read("mamba_n_groups") * read("mamba_d_state");
    return (inner * read("mamba_d_state") + convolved * (read("mamba_d_conv") - 1)) * elementBytes;
  }
  const keys = read("linear_num_key_heads") * read("linear_key_head_dim");
  const values = read("linear_num_value_heads") * read("linear_value_head_dim");
  const recurrent = values * read("linear_key_head_dim");
  return (recurrent + (2 * keys + values) * (read("linear_conv_kernel_dim") - 1)) * elementBytes;
}

function readExperts(raw: Raw, layerCount: number): ModelShape["experts"] {
  const count = Number(raw.num_local_experts ?? raw.num_experts ?? 0);
  if (!(count > 1)) return undefined;
  const step = Number(raw.decoder_sparse_step ?? 1);
  const dense = Array.isArray(raw.mlp_only_layers) ? raw.mlp_only_layers.length : 0;
  return {
    count,
    intermediateSize: Number(raw.moe_intermediate_size ?? raw.intermediate_size ?? 0),
    sharedIntermediateSize: Number(raw.shared_expert_intermediate_size ?? raw.shared_intermediate_size ?? 0),
    layers: Math.floor(layerCount / step) - dense,
  };
}
