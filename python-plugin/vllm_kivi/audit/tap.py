"""What the audited layer keeps of a step, queries and outputs, at fixed addresses, so that CUDA graphs can write it."""

from __future__ import annotations

from typing import Any

import torch

from vllm_kivi.settings import audit_rate, built_layers


class Tap:
    """Buffers of the audited layer.

    Args:
        tokens: the most tokens of decoding rows in a step.

    Attributes:
        query: float32 [tokens, Hq, D], rotated if the format rotates.
        out: [tokens, Hq, D] in the model's dtype, as the layer gives it.
    """

    def __init__(self, tokens: int, query_heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.query = torch.zeros(tokens, query_heads, head_size, dtype=torch.float32, device=device)
        self.out = torch.zeros(tokens, query_heads, head_size, dtype=dtype, device=device)

    def keep(self, query: torch.Tensor, out: torch.Tensor) -> None:
        """Keep a step's, [tokens, Hq, D] each; no more than there is room for. Graph-safe."""
        count = min(len(query), len(self.query))
        self.query[:count].copy_(query[:count])
        self.out[:count].copy_(out[:count])


def audited_layer(vllm_config: Any) -> Any | None:
    """The layer in the middle of the model's KIVI layers; None unless an audit is asked for. Layers must be built."""
    if not audit_rate(vllm_config):
        return None
    layers = built_layers(vllm_config)
    return layers[len(layers) // 2] if layers else None


def tap_of(impl: Any, tokens: int, dtype: torch.dtype, device: torch.device) -> Tap | None:
    """A tap for a layer's implementation, if that layer is audited; while weights load, so that vLLM counts it."""
    layer = audited_layer(impl.vllm_config)
    if layer is None or layer.impl is not impl:
        return None
    return Tap(tokens, impl.num_heads, impl.head_size, dtype, device)
