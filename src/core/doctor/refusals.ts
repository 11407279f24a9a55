/** What of python-plugin/vllm_kivi/gate.py and backend/base.py shows in a config.json, whatever the model type. */

type Raw = Record<string, unknown>;

/** Endings by which vLLM takes an architecture for a pooling model, most specific first. */
const RUNNERS: readonly [ending: RegExp, generates: boolean][] = [
  [/(ForCausalLM|ForConditionalGeneration|ChatModel|LMHeadModel)$/, true],
  [
    /(ForTextEncoding|EmbeddingModel|For(Sequence|Token|Audio|Image|Video)Classification|ClassificationModel)$/,
    false,
  ],
  [/(ForRewardModeling|Model)$/, false],
];

function textPart(config: Raw): Raw {
  const inner = config.text_config;
  return typeof inner === "object" && inner !== null ? { ...config, ...inner } : config;
}

const given = (value: unknown): boolean => value !== undefined && value !== null && value !== false;

function headSize(config: Raw): number | undefined {
  const [size, hidden, heads] = [config.head_dim, config.hidden_size, config.num_attention_heads];
  if (typeof size === "number") return size;
  return typeof hidden === "number" && typeof heads === "number" ? hidden / heads : undefined;
}

/** The reasons for which the plugin refuses a model with this config.json, as far as the file alone tells. */
export function refusals(document: unknown): string[] {
  if (typeof document !== "object" || document === null) return [];
  const outer = document as Raw;
  const config = textPart(outer);
  const { architectures } = outer;
  const architecture = Array.isArray(architectures) ? String(architectures[0]) : "";
  const pools = RUNNERS.find(([ending]) => ending.test(architecture))?.[1] === false;
  const head = headSize(config);
  const softCap = config.attn_logit_softcapping;
  const found: [boolean, string][] = [
    [typeof config.kv_lora_rank === "number", "latent attention (MLA), whose cache has no per-channel keys"],
    [head !== undefined && head % 8 !== 0, `the head size is ${head}; a multiple of 8 is needed`],
    [outer.is_encoder_decoder === true, "it is an encoder-decoder model"],
    [pools, `${architecture} is a pooling model, and only text generation is tested`],
    [given(config.attention_chunk_size), "chunked local attention, which no test covers yet"],
    [given(softCap) && softCap !== 0, `a soft cap of attention logits (${String(softCap)})`],
    [config.alibi === true || config.position_embedding_type === "alibi", "ALiBi"],
    [config.model_type === "gpt_oss", "attention sinks"],
  ];
  return found.flatMap(([refused, reason]) => (refused ? [reason] : []));
}
