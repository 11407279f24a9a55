"""What a step's batch asks of the cache, put on the GPU once a step and shared by all layers.

Lengths stay on the device (under asynchronous scheduling the host does not know them); from the host come only the
slot of each row and what a prefix hit restored, through two pinned buffers in turn, so nothing waits for the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.attention.backend import (
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)
from vllm.v1.attention.backends.utils import split_decodes_and_prefills

from vllm_kivi.backend.gpu.pieces import plan_pieces
from vllm_kivi.backend.gpu.prefill import SentPiece, flash_reach, send_pieces, slab_units
from vllm_kivi.cache.staging import Slot, SlotPool, building
from vllm_kivi.compat.facts import draft_tokens, uses_v2_runner
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.decode import takes
from vllm_kivi.kernels.few import new_plan, plan_few
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.repeat import Repeat
from vllm_kivi.kernels.tasks import Plan
from vllm_kivi.settings import config_of


@dataclass
class KiviGpuMetadata(AttentionMetadata):
    """One step; rows of few tokens (decode, verification) come first in the batch.

    Attributes:
        num_tokens: tokens of the step, padding of a CUDA graph included.
        few, many: rows of at most ``few_queries`` tokens, and the others; None without any. The tokens of ``many`` are
            counted from the first of them.
        few_tokens: tokens of ``few``.
        slot_mapping: int64 [>= num_tokens].
        plan: of ``few`` for append.py and decode.cu; None where the Triton kernels serve.
        pieces: what FlashAttention reads for ``many``; None where attend.py's kernel is to read the pages.
        repeat: what the step's first layer launched.
    """

    num_tokens: int
    few: Batch | None
    many: Batch | None
    few_tokens: int
    few_queries: int
    slot_mapping: torch.Tensor
    plan: Plan | None
    pieces: list[SentPiece] | None
    repeat: Repeat


def compiled_decode(vllm_config: Any) -> bool:
    """Whether decode.cu may serve: rows have one query, and its runner is the one it was run under (V2)."""
    return bool(draft_tokens(vllm_config) == 0 and uses_v2_runner(vllm_config))


class KiviGpuMetadataBuilder(AttentionMetadataBuilder[KiviGpuMetadata]):
    """Builds :class:`KiviGpuMetadata` from vLLM's common metadata and the runner's slots."""

    _cudagraph_support = AttentionCGSupport.UNIFORM_BATCH

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        pool = building.get()
        if pool is None:
            raise RuntimeError("KIVI: the model runner was not hooked before its metadata builders were made")
        self.pool: SlotPool = pool
        self._init_reorder_batch_threshold(1, supports_spec_as_decode=True)
        scheduler = vllm_config.scheduler_config
        rows, heads, head_size = scheduler.max_num_seqs, kv_cache_spec.num_kv_heads, kv_cache_spec.head_size
        config, parallel = config_of(vllm_config), vllm_config.parallel_config
        self.layout, self.windows = config.layout(head_size, kv_cache_spec.block_size), windows_of(config)
        self.heads = heads
        ratio = vllm_config.model_config.get_num_attention_heads(parallel) // heads
        serves = compiled_decode(vllm_config) and takes(self.layout, self.windows, ratio)
        self.plan = new_plan(self.layout, rows, heads, device) if serves else None
        self.reach = flash_reach(config, head_size)
        if self.reach is not None:
            longest = vllm_config.model_config.max_model_len
            self.units = slab_units(self.reach, heads, head_size, rows, scheduler.max_num_batched_tokens, longest)
        # One pair of rows: slots, and tokens restored by a prefix hit. Graphs read it at a fixed address.
        self.owners = torch.zeros(2, rows, dtype=torch.int32, device=device)
        self.pinned = [torch.zeros(2, rows, dtype=torch.int32, pin_memory=True) for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in range(2)]
        self.turn = 0

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False, **_: Any
    ) -> KiviGpuMetadata:
        common, threshold = common_attn_metadata, self.reorder_batch_threshold
        assert threshold is not None
        rows = common.num_reqs
        owners = self.pool.rows(rows)
        self._send_owners(owners)
        decodes, prefills, decode_tokens, _prefill_tokens = split_decodes_and_prefills(common, threshold)
        starts, lengths = common.query_start_loc[: rows + 1], common.seq_lens[:rows]
        table, (slots, readable) = common.block_table_tensor, self.owners[:, :rows]

        def batch(first: int, last: int) -> Batch:
            own = starts[first : last + 1]
            own = own - decode_tokens if first else own
            part = slice(first, last)
            return Batch(own, lengths[part], table[part], slots[part], readable[part])

        few = batch(0, decodes) if decodes else None
        if few is not None and self.plan is not None:
            plan_few(self.layout, self.windows, self.plan, few, common.slot_mapping, self.heads)
        meta = KiviGpuMetadata(
            num_tokens=common.num_actual_tokens,
            few=few,
            many=batch(decodes, rows) if prefills else None,
            few_tokens=decode_tokens,
            few_queries=threshold,
            slot_mapping=common.slot_mapping,
            plan=self.plan,
            pieces=self._pieces(common, owners, decodes) if prefills else None,
            repeat=Repeat(),
        )
        if self.pool.auditor is not None:
            self.pool.auditor.built = meta
        return meta

    def _pieces(self, common: CommonAttentionMetadata, owners: list[Slot], first: int) -> list[SentPiece] | None:
        """Of the rows from ``first`` on, whose lengths the host knows: they are prompts."""
        lengths = common.seq_lens_cpu_upper_bound
        if self.reach is None or lengths is None:
            return None
        starts = common.query_start_loc_cpu[first : len(owners) + 1]
        pieces = plan_pieces(
            (starts - starts[0]).tolist(),
            lengths[first : len(owners)].tolist(),
            [owner.readable_from for owner in owners[first:]],
            self.reach,
            self.units,
        )
        return None if pieces is None else send_pieces(pieces, self.device)

    def _send_owners(self, slots: list[Slot]) -> None:
        self.turn = 1 - self.turn
        pinned, copied = self.pinned[self.turn], self.copied[self.turn]
        copied.synchronize()  # of two steps ago: returns at once
        rows, numbers = len(slots), pinned.numpy()
        numbers[0, :rows] = [slot.index for slot in slots]
        numbers[1, :rows] = [slot.readable_from for slot in slots]
        self.owners[:, :rows].copy_(pinned[:, :rows], non_blocking=True)
        copied.record()
