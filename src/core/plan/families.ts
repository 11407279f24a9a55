/** Model types whose cache and weights are understood. What is not listed is refused, not guessed. */

/** How a model without `layer_types` says which layers attend to a window only. */
export type SlidingRule =
  /** No layer does. */
  | "never"
  /** Every layer, when `sliding_window` is a number. */
  | "all"
  /** Layers from `max_window_layers` on, when `use_sliding_window` is true. */
  | "upper"
  /** Even layers. */
  | "even"
  /** All but every `sliding_window_pattern`-th layer. */
  | "pattern";

export interface Family {
  readonly sliding: SlidingRule;
  /** Values that such a config.json may leave out, as transformers fills them in. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  /** False for a plain two-matrix MLP. */
  readonly gated?: boolean;
}

export const FAMILIES: Readonly<Record<string, Family>> = {
  llama: { sliding: "never" },
  mistral: { sliding: "all" },
  ministral: { sliding: "all" },
  mixtral: { sliding: "all" },
  qwen2: { sliding: "upper" },
  qwen2_moe: { sliding: "upper" },
  qwen3: { sliding: "upper" },
  qwen3_moe: { sliding: "upper" },
  qwen3_next: { sliding: "never", defaults: { full_attention_interval: 4 } },
  qwen2_5_vl_text: { sliding: "upper" },
  qwen3_vl_text: { sliding: "never" },
  gemma: { sliding: "never" },
  gemma2: { sliding: "even" },
  gemma3_text: {
    sliding: "pattern",
    defaults: {
      num_attention_heads: 8,
      num_key_value_heads: 4,
      head_dim: 256,
      vocab_size: 262_208,
      sliding_window_pattern: 6,
      sliding_window: 4096,
      tie_word_embeddings: true,
    },
  },
  phi3: { sliding: "all" },
  smollm3: { sliding: "upper" },
  olmo2: { sliding: "never" },
  granite: { sliding: "never" },
  granitemoehybrid: { sliding: "never" },
  cohere2: { sliding: "pattern", defaults: { sliding_window_pattern: 4, tie_word_embeddings: true } },
  starcoder2: { sliding: "all", gated: false },
};
