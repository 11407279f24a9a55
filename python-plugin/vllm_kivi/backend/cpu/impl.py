"""KIVI attention on vLLM's CPU platform: store, close groups, decode and prefill over packed pages."""

from __future__ import annotations

import numpy as np
import torch

from vllm_kivi.audit.auditor import DecodeRow
from vllm_kivi.audit.tap import tap_of
from vllm_kivi.backend.cpu.canary import checked_kernels
from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, CpuKernels, use_threads
from vllm_kivi.backend.cpu.metadata import DecodeRows, KiviMetadata, PrefillRow
from vllm_kivi.backend.cpu.prefill import attend_row, close_groups
from vllm_kivi.backend.layer import KiviImpl
from vllm_kivi.cache.staging import Ring, ring_dtype
from vllm_kivi.compat.facts import draft_tokens
from vllm_kivi.reference import prepare, rotate


class KiviCpuImpl(KiviImpl[KiviMetadata]):
    """With Numba kernels and rings in the model's own precision."""

    ring: Ring | None = None
    _kernels: CpuKernels | None = None

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Checks the kernels and allocates the ring: during model load, before vLLM counts what memory is left.

        vLLM calls it again when it loads weights anew; what requests have staged then stays.
        """
        if self.ring is not None:
            return
        dtype, drafts = ring_dtype(act_dtype), draft_tokens(self.vllm_config)
        use_threads(torch.get_num_threads())
        self._kernels = checked_kernels(self.layout, self.num_heads // self.num_kv_heads, self.config.clipping, dtype)
        self.ring = Ring(
            self.vllm_config.scheduler_config.max_num_seqs,
            self.num_kv_heads,
            self.config.key_staging_tokens(drafts),
            self.config.value_staging_tokens(drafts),
            self.head_size,
            dtype,
        )
        most = self.vllm_config.scheduler_config.max_num_batched_tokens
        self.tap = tap_of(self, most, act_dtype, torch.device("cpu"))

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: torch.Tensor,
        meta: KiviMetadata,
        out: torch.Tensor,
    ) -> None:
        assert self.ring is not None
        assert self._kernels is not None
        n = meta.num_tokens
        query = rotate(query[:n].float()) if self.config.rotation else query[:n]
        key, value = prepare(torch.stack([key[:n], value[:n]]), self.config.rotation)
        result = torch.empty(n, self.num_heads, self.head_size, dtype=torch.float32)

        # vLLM publishes a block when it schedules it, so a row may read a group that another row closes in this very
        # step: every group is closed before any row attends. Old tokens are read before the rings take the new ones.
        keys = [self._exact_keys(row, key) for row in meta.prefill]
        values = [self._exact_values(row, value) for row in meta.prefill]
        self._kernels.store_values(pages.numpy(), meta.slot_mapping.numpy(), value.float().contiguous().numpy())
        staged = meta.staged_keys
        self.ring.write_keys(staged.slots, staged.positions, key[staged.tokens])
        staged = meta.staged_values
        self.ring.write_values(staged.slots, staged.positions, value[staged.tokens])
        for row, exact_key in zip(meta.prefill, keys, strict=True):
            close_groups(self._kernels, self.layout, pages, row, exact_key)
        if meta.decode is not None:
            self._close_groups(meta.decode, pages)
            self._decode(meta.decode, query, pages, result)
        for row, exact_key, exact_value in zip(meta.prefill, keys, values, strict=True):
            result[row.tokens] = attend_row(
                self._kernels, self.layout, pages, row, query[row.tokens], exact_key, exact_value, self.scale
            )

        if self.config.rotation:
            result = rotate(result)
        out[:n].copy_(result)
        if self.tap is not None:
            self.tap.keep(query, out[:n])

    def decode_rows(self, meta: KiviMetadata) -> list[DecodeRow]:
        rows = meta.decode
        if rows is None:
            return []
        numbers = zip(rows.tokens.tolist(), rows.slots.tolist(), rows.lengths.tolist(), strict=True)
        return [
            DecodeRow(token, slot, length - 1, block_ids)
            for (token, slot, length), block_ids in zip(numbers, rows.block_table, strict=True)
        ]

    def staged_keys(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        assert self.ring is not None
        return self.ring.read_keys(torch.full_like(positions, slot), positions)

    def staged_values(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        assert self.ring is not None
        return self.ring.read_values(torch.full_like(positions, slot), positions)

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
