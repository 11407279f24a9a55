"""One layer's attention as vLLM calls it: what all platforms do before and around their own kernels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import AttentionImpl, AttentionLayer, AttentionMetadata, AttentionType

from vllm_kivi.audit.auditor import DecodeRow
from vllm_kivi.audit.tap import Tap
from vllm_kivi.compat.specs import pages_of
from vllm_kivi.config import ConfigError
from vllm_kivi.settings import config_of

Metadata = TypeVar("Metadata", bound=AttentionMetadata)


class KiviImpl(AttentionImpl[Metadata]):
    """What a query reads depends on its position alone (reference.closed_keys, rough_values), so prefill, chunks and
    decode give the same result up to rounding; a prefix hit too, where no window asks for tokens that it restored only
    quantized.

    Attributes:
        tap: where an audited layer keeps its queries and outputs.
    """

    tap: Tap | None = None

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **extra: Any,
    ) -> None:
        _refuse_unsupported(
            kv_cache_dtype, alibi_slopes, sliding_window, logits_soft_cap, attn_type, kv_sharing_target_layer_name,
            extra,
        )  # fmt: skip
        self.vllm_config = get_current_vllm_config()
        self.config = config_of(self.vllm_config)
        self.layout = self.config.layout(head_size, self.vllm_config.cache_config.block_size)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size, self.scale = head_size, float(scale)

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Metadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """vLLM's entry; see :meth:`attend`.

        Args:
            output: [tokens, Hq, D] or [tokens, Hq * D], written in place.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("KIVI: fused output quantization is not supported")
        if attn_metadata is None:  # vLLM's profiling run, or warm-up
            return output.fill_(0)
        self.attend(
            query, key, value, pages_of(kv_cache), attn_metadata, output.view(-1, self.num_heads, self.head_size)
        )
        return output

    @abstractmethod
    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: torch.Tensor,
        meta: Metadata,
        out: torch.Tensor,
    ) -> None:
        """Store the step's keys and values, close full groups, attend.

        Args:
            query, out: [tokens, Hq, D]; key, value: [tokens, H, D]; tokens may include padding at the end.
            pages: uint8 [blocks, H, record_bytes].
        """

    # --- for the audit ------------------------------------------------------------------------------------------------

    @abstractmethod
    def decode_rows(self, meta: Metadata) -> list[DecodeRow]:
        """The decoding rows of a step; waits for the device."""

    @abstractmethod
    def staged_keys(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        """Float32 [n, H, D] keys on the host of positions, int64 [n], from a slot's ring."""

    @abstractmethod
    def staged_values(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        """Float32 [n, H, D] values, likewise."""

    @staticmethod
    def pages_of(layer: Any) -> torch.Tensor:
        """Uint8 [blocks, H, record_bytes] of a layer of vLLM."""
        return pages_of(layer.kv_cache)


def _refuse_unsupported(
    kv_cache_dtype: str,
    alibi_slopes: list[float] | None,
    sliding_window: int | None,
    logits_soft_cap: float | None,
    attn_type: str,
    kv_sharing_target_layer_name: str | None,
    extra: dict[str, Any],
) -> None:
    """Raises ConfigError for a layer whose attention no test covers; arguments as vLLM hands them to an impl."""
    refused = {
        "ALiBi": alibi_slopes is not None,
        "a sliding window": sliding_window is not None,
        "a logits soft cap": bool(logits_soft_cap),
        f"{attn_type} attention": attn_type != AttentionType.DECODER,
        "KV sharing across layers": kv_sharing_target_layer_name is not None,
        "attention sinks": extra.get("sinks") is not None,
    }
    if any(refused.values()):
        found = " and ".join(name for name, on in refused.items() if on)
        raise ConfigError(
            f"KIVI refuses: this model's attention has {found}, which no test covers yet; "
            f"serve it without --kv-cache-dtype {kv_cache_dtype}"
        )
