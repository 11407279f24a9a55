import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const VOCABULARY = 320;

/** A Llama without weights, for `--load-format dummy`, with a tokenizer of whole words, so that text and tokens match. */
export function writeTinyModel(folder: string): string {
  const words = Array.from({ length: VOCABULARY }, (_, index) => (index === 0 ? "<unk>" : `w${index}`));
  const files = {
    "config.json": {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: 128,
      intermediate_size: 256,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 64,
      vocab_size: VOCABULARY,
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-5,
      torch_dtype: "bfloat16",
    },
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
      post_processor: null,
      decoder: null,
      model: {
        type: "WordLevel",
        vocab: Object.fromEntries(words.map((word, index) => [word, index])),
        unk_token: "<unk>",
      },
    },
    "tokenizer_config.json": { tokenizer_class: "PreTrainedTokenizerFast", unk_token: "<unk>" },
  };
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(folder, name), JSON.stringify(content));
  }
  return folder;
}
