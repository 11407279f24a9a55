"""Tiny Llama checkpoints with random weights whose keys have outlier channels, as real models' keys do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 320


@dataclass(frozen=True)
class TinyModel:
    """Shape of a checkpoint; ``ratio`` query heads share a KV head."""

    head_size: int
    kv_heads: int
    ratio: int
    layers: int = 2

    @property
    def name(self) -> str:
        return f"llama-d{self.head_size}-h{self.kv_heads}-r{self.ratio}"


def write_checkpoint(model: TinyModel, folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint (float32 safetensors and config.json, no tokenizer) once; returns its folder."""
    target = folder / model.name
    if (target / "config.json").exists():
        return target
    torch.manual_seed(seed)
    hidden = 24 * model.kv_heads * model.ratio  # transformers wants a multiple of the heads
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.kv_heads * model.ratio,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_size,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    net = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for layer in net.model.layers:
            attention = layer.self_attn
            # Peaked attention and a few large channels: what the cache does then shows in the logits.
            attention.q_proj.weight.normal_(0, 1.2 / hidden**0.5)
            attention.k_proj.weight.normal_(0, 1.2 / hidden**0.5)
            attention.v_proj.weight.normal_(0, 2.0 / hidden**0.5)
            attention.o_proj.weight.normal_(0, 1.0 / attention.o_proj.in_features**0.5)
            attention.k_proj.weight.view(model.kv_heads, model.head_size, hidden)[
                :, model.head_size // 2 - 2 : model.head_size // 2
            ].mul_(6)
        net.lm_head.weight.normal_(0, 1.0 / hidden**0.5)
    net.save_pretrained(target)
    return target
