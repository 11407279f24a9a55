"""KIVI attention on vLLM's CPU platform: store, close groups, decode and prefill over packed pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import AttentionImpl, AttentionLayer, AttentionType

from vllm_kivi.backend.base import refuse_unsupported
from vllm_kivi.backend.cpu.canary import checked_kernels
from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, CpuKernels, use_threads
from vllm_kivi.backend.cpu.metadata import DecodeRows, KiviMetadata, PrefillRow
from vllm_kivi.backend.cpu.prefill import attend_row, close_groups
from vllm_kivi.cache.staging import Ring, ring_dtype
from vllm_kivi.reference import rotate
from vllm_kivi.settings import config_of


class KiviCpuImpl(AttentionImpl[KiviMetadata]):
    """One layer's attention. What a query reads depends on its position alone (reference.closed_keys, rough_values), so
    prefill, chunks and decode give the same result up to float32 rounding; a prefix hit too, where no window asks for
    tokens that it restored only quantized."""

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
        refuse_unsupported(
            kv_cache_dtype,
            alibi_slopes,
            sliding_window,
            logits_soft_cap,
            attn_type,
            kv_sharing_target_layer_name,
            extra,
        )
        vllm_config = get_current_vllm_config()
        self.config = config_of(vllm_config)
        self.layout = self.config.layout(head_size, vllm_config.cache_config.block_size)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size, self.scale = head_size, float(scale)
        self._slots = vllm_config.scheduler_config.max_num_seqs
        self._draft_tokens = vllm_config.num_speculative_tokens
        self.ring: Ring | None = None
        self._kernels: CpuKernels | None = None

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Checks the kernels and allocates the ring: during model load, before vLLM counts what memory is left."""
        dtype = ring_dtype(act_dtype)
        use_threads(torch.get_num_threads())
        self._kernels = checked_kernels(self.layout, self.num_heads // self.num_kv_heads, self.config.clipping, dtype)
        self.ring = Ring(
            self._slots,
            self.num_kv_heads,
            self.config.key_staging_tokens(self._draft_tokens),
            self.config.value_staging_tokens(self._draft_tokens),
            self.head_size,
            dtype,
        )

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
        """Store the step's values and keep its newest tokens, close full groups, attend.

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
        # step: every group is closed before any row attends. Old tokens are read before the rings take the new ones.
        keys = [self._exact_keys(row, key) for row in meta.prefill]
        values = [self._exact_values(row, value) for row in meta.prefill]
        self._kernels.store_values(kv_cache.numpy(), meta.slot_mapping.numpy(), value.float().contiguous().numpy())
        staged = meta.staged_keys
        self.ring.write_keys(staged.slots, staged.positions, key[staged.tokens])
        staged = meta.staged_values
        self.ring.write_values(staged.slots, staged.positions, value[staged.tokens])
        for row, exact_key in zip(meta.prefill, keys, strict=True):
            close_groups(self._kernels, self.layout, kv_cache, row, exact_key)
        if meta.decode is not None:
            self._close_groups(meta.decode, kv_cache)
            self._decode(meta.decode, query, kv_cache, result)
        for row, exact_key, exact_value in zip(meta.prefill, keys, values, strict=True):
            result[row.tokens] = attend_row(
                self._kernels, self.layout, kv_cache, row, query[row.tokens], exact_key, exact_value, self.scale
            )

        if self.config.rotation:
            result = rotate(result)
        output[:n].copy_(result.view(output[:n].shape))
        return output

    def _exact_keys(self, row: PrefillRow, key: torch.Tensor) -> torch.Tensor:
        """Float32 [tokens, H, D] keys of a row from row.key_start on: from the ring, then of this step."""
        assert self.ring is not None
        positions = torch.arange(row.key_start, row.computed)
        old = self.ring.read_keys(torch.full_like(positions, row.slot.index), positions)
        return torch.cat([old, key[row.tokens].float()])

    def _exact_values(self, row: PrefillRow, value: torch.Tensor) -> torch.Tensor:
        """Float32 [tokens, H, D] values of a row from row.value_start on, likewise."""
        assert self.ring is not None
        positions = torch.arange(row.value_start, row.computed)
        old = self.ring.read_values(torch.full_like(positions, row.slot.index), positions)
        return torch.cat([old, value[row.tokens].float()])

    def _close_groups(self, rows: DecodeRows, pages: torch.Tensor) -> None:
        """Quantize the keys of the groups that this step's tokens complete, from the ring into their pages."""
        if not rows.closing.numel():
            return
        assert self.ring is not None
        assert self._kernels is not None
        group, block_size = self.layout.key_group, self.layout.block_size
        first = rows.lengths[rows.closing] - group
        positions = first[:, None] + torch.arange(group)
        key = self.ring.read_keys(rows.slots[rows.closing][:, None].expand_as(positions), positions)
        blocks = rows.block_table[rows.closing, first // block_size].long()
        self._kernels.store_keys(
            pages.numpy(), blocks.numpy(), (first % block_size // group).numpy(), key.contiguous().numpy()
        )

    def _decode(self, rows: DecodeRows, query: torch.Tensor, pages: torch.Tensor, result: torch.Tensor) -> None:
        assert self.ring is not None
        assert self._kernels is not None
        ring = self.ring
        count = rows.tokens.numel()
        everyone = count == result.shape[0]
        q = (query if everyone else query[rows.tokens]).float().contiguous()
        out = result if everyone else torch.empty_like(q)
        splits = -(-rows.max_length // SPLIT_TOKENS)
        part_out = np.empty((count, splits, self.num_heads, self.head_size), np.float32)
        part_state = np.empty((count, splits, self.num_heads, 2), np.float32)
        self._kernels.decode(
            out.numpy(), q.numpy(), pages.numpy(), rows.block_table.numpy(), rows.closed.numpy(), rows.rough.numpy(),
            ring.key_array(), ring.value_array(), rows.slots.numpy(), rows.lengths.numpy(), np.float32(self.scale),
            part_out, part_state,
        )  # fmt: skip
        if not everyone:
            result[rows.tokens] = out
