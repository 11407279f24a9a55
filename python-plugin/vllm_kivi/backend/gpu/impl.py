"""KIVI attention on CUDA: Triton kernels over packed pages and rings of staged tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from vllm_kivi import reference
from vllm_kivi.audit.auditor import DecodeRow
from vllm_kivi.audit.tap import tap_of
from vllm_kivi.backend.gpu.canary import check_kernels
from vllm_kivi.backend.gpu.metadata import KiviGpuMetadata, compiled_decode
from vllm_kivi.backend.gpu.prefill import attend_pieces
from vllm_kivi.backend.gpu.workspace import Workspace, empty_rings, workspace_of
from vllm_kivi.backend.layer import KiviImpl
from vllm_kivi.compat.facts import draft_tokens
from vllm_kivi.kernels.append import append_tokens
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.few import attend_few
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.many import Pair, attend_many, store_many
from vllm_kivi.kernels.staging import stage_newest
from vllm_kivi.kernels.tasks import Plan


class KiviGpuImpl(KiviImpl[KiviGpuMetadata]):
    """With rings of eight bits, and scratch that all layers of a worker share."""

    _rings: Pair | None = None
    _workspace: Workspace | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.windows = windows_of(self.config)

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Checks the kernels and allocates rings and scratch: during model load, before vLLM counts what is left.

        vLLM calls it again when it loads weights anew; what requests have staged then stays where it is, since CUDA
        graphs know the place.
        """
        if self._rings is not None:
            return
        device = torch.device("cuda", torch.cuda.current_device())
        drafts = draft_tokens(self.vllm_config)
        compiled = compiled_decode(self.vllm_config)
        check_kernels(
            self.config, self.layout, self.num_kv_heads, self.num_heads, 1 + drafts, act_dtype, device, compiled
        )
        slots = self.vllm_config.scheduler_config.max_num_seqs + 1  # the last one is scratch
        self._rings = empty_rings(self.config, slots, self.num_kv_heads, self.head_size, drafts, device)
        self._dtype = act_dtype
        self._workspace = workspace_of(
            self.vllm_config, self.config, self.layout, self.num_kv_heads, self.num_heads, act_dtype, device
        )
        self.tap = tap_of(self, self._workspace.few_query.shape[0], act_dtype, device)

    def restore(self) -> None:
        """Rings and scratch as they were when the model was loaded; vLLM's sleep may have dropped what they held."""
        rings, work = self._state()
        for ring in rings:
            ring.zero_()
        work.restore()

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: torch.Tensor,
        meta: KiviGpuMetadata,
        out: torch.Tensor,
    ) -> None:
        split, end = meta.few_tokens, meta.num_tokens
        few, many, repeat = meta.few, meta.many, meta.repeat
        rings, work = self._state()
        first = split if few is not None and many is not None else 0
        repeat.enter((query, key, value, out), first, (pages, *rings), self.scale)

        # vLLM publishes a block when it schedules it, so a row may read a group that another row closes in this very
        # step: everything is stored before any row attends. decode.cu closes groups only where none of its rows may.
        def store_and_decode() -> None:
            if few is not None:
                fresh = query[:split], key[:split], value[:split]
                self._append(few, *fresh, pages, meta.slot_mapping, meta.plan)
            if many is not None:
                self._store(many, key[split:end], value[split:end], pages, meta.slot_mapping[split:end])
            if few is not None:
                self._decode(few, meta.few_queries, meta.plan, query[:split], pages, out[:split])

        repeat("store and decode", store_and_decode)
        if few is not None and self.tap is not None:  # at capture too, so that a graph's replay fills it
            self.tap.keep(work.few_query[:split], out[:split])
        if many is not None:
            self._prefill(many, meta, query[split:end], pages, out[split:end])

    def decode_rows(self, meta: KiviGpuMetadata) -> list[DecodeRow]:
        if meta.few is None:
            return []
        starts, lengths, slots = (x.tolist() for x in (meta.few.query_start, meta.few.seq_lens, meta.few.slots))
        counts = [end - start for start, end in pairwise(starts)]
        return [
            DecodeRow(starts[row], slots[row], lengths[row] - count, meta.few.block_table[row])
            for row, count in enumerate(counts)
            if count
        ]

    def staged_keys(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        return self._staged(self._state()[0][0], slot, positions)

    def staged_values(self, slot: int, positions: torch.Tensor) -> torch.Tensor:
        return self._staged(self._state()[0][1], slot, positions)

    @staticmethod
    def _staged(ring: torch.Tensor, slot: int, positions: torch.Tensor) -> torch.Tensor:
        return reference.unstage(ring[slot].cpu()[:, positions % ring.shape[2]]).transpose(0, 1)

    def _append(
        self,
        batch: Batch,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: torch.Tensor,
        slot_mapping: torch.Tensor,
        plan: Plan | None,
    ) -> None:
        rings, work = self._state()
        append_tokens(
            self.layout, pages, batch, slot_mapping, query, key, value, work.few_query, *rings,
            self.config.clipping, self.config.rotation, plan,
        )  # fmt: skip

    def _decode(
        self,
        batch: Batch,
        queries: int,
        plan: Plan | None,
        query: torch.Tensor,
        pages: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        rings, work = self._state()
        splits = work.splits(batch.seq_lens.shape[0])
        attend_few(
            self.layout, self.windows, out, work.few_query[: query.shape[0]], pages, batch, *rings, self.scale,
            work.scratch, splits, queries, self._dtype, self.config.rotation, plan,
        )  # fmt: skip

    def _store(
        self, batch: Batch, key: torch.Tensor, value: torch.Tensor, pages: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        rings, work = self._state()
        store_many(
            self.layout, pages, batch, slot_mapping, work.staged(key.shape[0]), (key, value), rings,
            self.config.clipping, self.config.rotation,
        )  # fmt: skip

    def _prefill(
        self, batch: Batch, meta: KiviGpuMetadata, query: torch.Tensor, pages: torch.Tensor, out: torch.Tensor
    ) -> None:
        rings, work = self._state()
        tokens = query.shape[0]
        if meta.pieces is not None and work.slab is not None:
            attend_pieces(
                self.layout, meta.pieces, meta.repeat, work.slab, out, work.spare, query, pages, batch, rings,
                lambda: work.staged(tokens), self.scale,
            )  # fmt: skip
        else:
            meta.repeat(
                "prefill",
                lambda: attend_many(
                    self.layout, self.windows, out, query, work.spare[:tokens], pages, batch, rings,
                    work.staged(tokens), self.scale, self.config.rotation,
                ),
            )  # fmt: skip
        # Only now: the attention read what this overwrites.
        meta.repeat("stage", lambda: stage_newest(rings, batch, work.staged(tokens)))

    def _state(self) -> tuple[Pair, Workspace]:
        assert self._rings is not None
        assert self._workspace is not None
        return self._rings, self._workspace
