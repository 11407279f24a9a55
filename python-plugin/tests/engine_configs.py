"""Real vLLM engine configurations from tiny config.json folders; no weights, no tokenizer, no engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
# All name the Llama class: vLLM inspects every other class in a process of its own, 10 s each, and reads what matters
# here (windows, latent attention, encoders) from the configuration alone.
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 128}
DEEPSEEK = {
    **LLAMA,
    "model_type": "deepseek_v2",
    "num_key_value_heads": 3,
    "kv_lora_rank": 64,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}
ENCODER_DECODER = {**LLAMA, "is_encoder_decoder": True}


def engine_config(folder: Path, model: dict[str, Any] = LLAMA, **args: Any) -> VllmConfig:
    """What vLLM makes of its command line: every check of ours that runs when an engine is configured has run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model))
    return EngineArgs(
        model=str(folder), skip_tokenizer_init=True, **{"kv_cache_memory_bytes": 1 << 28, "max_num_seqs": 8, **args}
    ).create_engine_config()
