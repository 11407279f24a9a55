"""LoRA adapters with random weights, as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 8


def adapt(net: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Add a random adapter to the weights of the attention's projections; returns it as PEFT names its tensors."""
    generator, adapter = torch.Generator().manual_seed(seed), {}
    with torch.no_grad():
        for name, layer in net.named_modules():
            if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj")):
                down = torch.randn(RANK, layer.in_features, generator=generator) / layer.in_features**0.5
                up = torch.randn(layer.out_features, RANK, generator=generator) / RANK**0.5
                layer.weight += (up @ down).to(layer.weight)
                adapter[f"base_model.model.{name}.lora_A.weight"] = down
                adapter[f"base_model.model.{name}.lora_B.weight"] = up
    return adapter


def write_adapter(adapter: dict[str, torch.Tensor], folder: Path) -> Path:
    """Write the adapter as PEFT does; alpha is the rank, so that its product is added as it is."""
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "bias": "none",
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(adapter, folder / "adapter_model.safetensors")
    return folder
