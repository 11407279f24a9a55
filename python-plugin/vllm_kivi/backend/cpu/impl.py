"""KIVI attention on vLLM's CPU platform: store, close groups, decode and prefill over packed pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import AttentionImpl, AttentionLayer, AttentionType

from vllm_kivi.backend.cpu.canary import checked_kernels
from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, CpuKernels, use_threads
from vllm_kivi.backend.cpu.prefill import attend_row, close_groups
from vllm_kivi.backend.metadata import DecodeRows, KiviMetadata, PrefillRow
from vllm_kivi.cache.staging import Ring, ring_dtype
from vllm_kivi.config import ConfigError
from vllm_kivi.reference import rotate
from vllm_kivi.settings import config_of


class KiviCpuImpl(AttentionImpl[KiviMetadata]):
    """One layer's attention. What a query reads depends on its position alone (reference.closed_tokens), so prefill,
    chunks, prefix hits and decode give the same result up to float32 rounding."""

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
        vllm_config = get_current_vllm_config()
        self.config = config_of(vllm_config)
        self.layout = self.config.layout(head_size, vllm_config.cache_config.block_size)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size, self.scale = head_size, float(scale)
        self._slots = vllm_config.scheduler_config.max_num_seqs
        self.ring: Ring | None = None
        self._kernels: CpuKernels | None = None

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Checks the kernels and allocates the ring: during model load, before vLLM counts what memory is left."""
        dtype = ring_dtype(act_dtype)
        use_threads(torch.get_num_threads())
        self._kernels = checked_kernels(self.layout, self.num_heads // self.num_kv_heads, self.config.clipping, dtype)
        self.ring = Ring(self._slots, self.num_kv_heads, self.config.staging_tokens, self.head_size, dtype)

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: KiviMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Store the step's keys and values, close full groups, attend.

        Args:
            query: [tokens, Hq, D]; key, value: [tokens, H, D]; tokens may include padding at the end.
            kv_cache: uint8 [blocks, H, record_bytes].
            output: [tokens, Hq, D] or [tokens, Hq * D], written in place.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("KIVI: fused output quantization is not supported")
        if attn_metadata is None:  # vLLM's warm-up
            return output
        assert self.ring is not None
        assert self._kernels is not None
        meta, n = attn_metadata, attn_metadata.num_tokens
        query, key, value = query[:n], key[:n], value[:n]
        if self.config.rotation:
            query, key, value = rotate(query.float()), rotate(key), rotate(value)
        result = torch.empty(n, self.num_heads, self.head_size, dtype=torch.float32)

        # vLLM publishes a block when it schedules it, so a row may read a group that another row closes in this very
        # step: every group is closed before any row attends. Old tokens are read before the ring takes the new ones.
        spans = [self._span(row, key, value) for row in meta.prefill]
        self.ring.write(meta.staged_slots, meta.staged_positions, key[meta.staged_tokens], value[meta.staged_tokens])
        for row, (span_key, span_value) in zip(meta.prefill, spans, strict=True):
            close_groups(self._kernels, self.layout, kv_cache, row, span_key, span_value)
        if meta.decode is not None:
            self._close_groups(meta.decode, kv_cache)
            self._decode(meta.decode, query, kv_cache, result)
        for row, (span_key, span_value) in zip(meta.prefill, spans, strict=True):
            result[row.tokens] = attend_row(
                self._kernels, self.layout, kv_cache, row, query[row.tokens], span_key, span_value, self.scale
            )

        if self.config.rotation:
            result = rotate(result)
        output[:n].copy_(result.view(output[:n].shape))
        return output

    def _span(self, row: PrefillRow, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float32 [tokens, H, D] keys and values of a row from row.span_start on: from the ring, then of this step."""
        assert self.ring is not None
        positions = torch.arange(row.span_start, row.computed)
        old_key, old_value = self.ring.read(torch.full_like(positions, row.slot.index), positions)
        return torch.cat([old_key, key[row.tokens].float()]), torch.cat([old_value, value[row.tokens].float()])

    def _close_groups(self, rows: DecodeRows, pages: torch.Tensor) -> None:
        """Quantize the groups that this step's tokens complete, from the ring into their pages."""
        if not rows.closing.numel():
            return
        assert self.ring is not None
        assert self._kernels is not None
        group, block_size = self.layout.key_group, self.layout.block_size
        first = rows.lengths[rows.closing] - group
        positions = first[:, None] + torch.arange(group)
        key, value = self.ring.read(rows.slots[rows.closing][:, None].expand_as(positions), positions)
        blocks = rows.block_table[rows.closing, first // block_size].long()
        self._kernels.store(
            pages.numpy(), blocks.numpy(), (first % block_size // group).numpy(), key.numpy(), value.numpy()
        )

    def _decode(self, rows: DecodeRows, query: torch.Tensor, pages: torch.Tensor, result: torch.Tensor) -> None:
        assert self.ring is not None
        assert self._kernels is not None
        ring = self.ring
        count = rows.tokens.numel()
        everyone = count == result.shape[0]
        q = (query if everyone else query[rows.tokens]).float().contiguous()
        out = result if everyone else torch.empty_like(q)
        splits = max(-(-rows.max_closed // SPLIT_TOKENS), 1)
        part_out = np.empty((count, splits, self.num_heads, self.head_size), np.float32)
        part_state = np.empty((count, splits, self.num_heads, 2), np.float32)
        self._kernels.decode(
            out.numpy(), q.numpy(), pages.numpy(), rows.block_table.numpy(), rows.closed.numpy(), ring.key_array(),
            ring.value_array(), rows.slots.numpy(), rows.lengths.numpy(), np.float32(self.scale), part_out, part_state,
        )  # fmt: skip
        if not everyone:
            result[rows.tokens] = out
