"""Tiny Llama checkpoints with random weights whose keys have outlier channels, as real models' keys do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MinistralConfig, MinistralForCausalLM, PreTrainedModel

VOCABULARY = 320


@dataclass(frozen=True)
class TinyModel:
    """Shape of a Llama checkpoint; ``ratio`` query heads share a KV head."""

    head_size: int
    kv_heads: int
    ratio: int
    layers: int = 2

    @property
    def name(self) -> str:
        return f"llama-d{self.head_size}-h{self.kv_heads}-r{self.ratio}-l{self.layers}"

    @property
    def hidden(self) -> int:
        return 24 * self.kv_heads * self.ratio  # transformers wants a multiple of the heads

    def network(self) -> PreTrainedModel:
        return LlamaForCausalLM(
            LlamaConfig(**self.sizes(), rms_norm_eps=1e-5, tie_word_embeddings=False)  # type: ignore[arg-type]
        )

    def sizes(self) -> dict[str, int | None]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.kv_heads * self.ratio,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "bos_token_id": None,
            "eos_token_id": None,
        }


@dataclass(frozen=True)
class WindowedModel(TinyModel):
    """Shape of a Ministral checkpoint, a Llama with windows; ``pattern`` has an "s" for a layer with a sliding window
    of ``window`` tokens and an "f" for one without."""

    pattern: str = "ssfsf"
    window: int = 100

    @property
    def name(self) -> str:
        return f"ministral-d{self.head_size}-h{self.kv_heads}-r{self.ratio}-{self.pattern}-w{self.window}"

    def network(self) -> PreTrainedModel:
        kinds = {"s": "sliding_attention", "f": "full_attention"}
        sizes = {**self.sizes(), "num_hidden_layers": len(self.pattern)}
        return MinistralForCausalLM(
            MinistralConfig(
                **sizes,  # type: ignore[arg-type]
                layer_types=[kinds[kind] for kind in self.pattern],
                sliding_window=self.window,
                rms_norm_eps=1e-5,
                tie_word_embeddings=False,
            )
        )


def write_checkpoint(model: TinyModel, folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint (float32 safetensors and config.json, no tokenizer) once; returns its folder."""
    target = folder / model.name
    if (target / "config.json").exists():
        return target
    torch.manual_seed(seed)
    net, hidden = model.network().float(), model.hidden
    with torch.no_grad():
        for layer in net.model.layers:
            attention = layer.self_attn
            # Peaked attention and a few large channels: what the cache does then shows in the logits.
            attention.q_proj.weight.normal_(0, 1.2 / hidden**0.5)
            attention.k_proj.weight.normal_(0, 1.2 / hidden**0.5)
            attention.v_proj.weight.normal_(0, 2.0 / hidden**0.5)
            attention.o_proj.weight.normal_(0, 1.0 / attention.o_proj.in_features**0.5)
            large = slice(model.head_size // 2 - 2, model.head_size // 2)
            attention.k_proj.weight.view(model.kv_heads, model.head_size, hidden)[:, large].mul_(6)
        net.lm_head.weight.normal_(0, 1.0 / hidden**0.5)
    net.save_pretrained(target)
    described = json.loads((target / "config.json").read_text())
    described["architectures"] = ["LlamaForCausalLM"]  # vLLM's name for both
    (target / "config.json").write_text(json.dumps(described))
    return target
