"""What a step's batch asks of the cache, worked out once a step on the host and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from vllm.v1.attention.backend import AttentionMetadata, AttentionMetadataBuilder, CommonAttentionMetadata

from vllm_kivi.cache.staging import Slot, SlotPool, building
from vllm_kivi.config import KiviConfig
from vllm_kivi.reference import closed_tokens
from vllm_kivi.settings import config_of


@dataclass
class PrefillRow:
    """A row with more than one token in this step.

    Attributes:
        first_token: index of its first token in the step's tokens.
        computed, length: tokens before this step, and after it.
        block_ids: int32 [blocks].
        span_start: oldest token needed in full precision, ``span_start <= computed``.
        segments: (first query position, end, closed tokens): queries that read the same closed groups.
    """

    first_token: int
    computed: int
    length: int
    slot: Slot
    block_ids: torch.Tensor
    span_start: int
    segments: list[tuple[int, int, int]]

    @property
    def tokens(self) -> slice:
        """Its tokens among the step's."""
        return slice(self.first_token, self.first_token + self.length - self.computed)


@dataclass
class DecodeRows:
    """All rows with one token in this step; tensors of ``n`` rows, int64 unless stated.

    Attributes:
        tokens: index of each row's token in the step's tokens.
        block_table: int32 [n, blocks].
        closed: leading tokens that are read quantized.
        closing: rows whose group is complete with this token.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    closed: torch.Tensor
    block_table: torch.Tensor
    closing: torch.Tensor
    max_closed: int


@dataclass
class KiviMetadata(AttentionMetadata):
    """One step.

    Attributes:
        num_tokens: tokens of the step, padding excluded.
        decode: None when no row decodes.
        staged_tokens, staged_slots, staged_positions: int64 [n], tokens to keep in the rings.
    """

    num_tokens: int
    decode: DecodeRows | None
    prefill: list[PrefillRow]
    staged_tokens: torch.Tensor
    staged_slots: torch.Tensor
    staged_positions: torch.Tensor


class KiviMetadataBuilder(AttentionMetadataBuilder[KiviMetadata]):
    """Builds :class:`KiviMetadata` from vLLM's common metadata and the runner's slots."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.config = config_of(vllm_config)
        pool = building.get()
        if pool is None:
            raise RuntimeError("KIVI: the model runner was not hooked before its metadata builders were made")
        self.pool: SlotPool = pool

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False, **_: Any
    ) -> KiviMetadata:
        common = common_attn_metadata
        starts = common.query_start_loc_cpu[: common.num_reqs + 1].tolist()
        lengths = common.seq_lens[: common.num_reqs].tolist()
        counts = [end - start for start, end in pairwise(starts)]
        computed = [length - count for length, count in zip(lengths, counts, strict=True)]
        slots = self.pool.rows(computed, lengths)
        return build_metadata(self.config, starts, computed, lengths, slots, common.block_table_tensor)


def build_metadata(
    config: KiviConfig,
    starts: list[int],
    computed: list[int],
    lengths: list[int],
    slots: list[Slot],
    block_table: torch.Tensor,
) -> KiviMetadata:
    """Metadata of one step.

    Args:
        starts: first token of each row, and the end of the last.
        computed, lengths: tokens of each row before and after this step; a row of no tokens is padding.
        block_table: int32 [rows, blocks].
    """
    group, window, ring = config.key_group, config.window, config.staging_tokens
    decode: list[int] = []
    prefill: list[PrefillRow] = []
    tokens: list[int] = []
    owners: list[int] = []
    positions: list[int] = []
    for row, (start, before, after, slot) in enumerate(zip(starts, computed, lengths, slots, strict=False)):
        count = after - before
        if count <= 0:
            continue
        kept = range(max(before, after - ring), after)
        tokens.extend(start + p - before for p in kept)
        owners.extend([slot.index] * len(kept))
        positions.extend(kept)
        if count == 1:
            decode.append(row)
        else:
            prefill.append(_prefill_row(start, before, after, slot, block_table[row], group, window))
    return KiviMetadata(
        num_tokens=starts[-1],
        decode=_decode_rows(decode, starts, lengths, slots, block_table, group, window) if decode else None,
        prefill=prefill,
        staged_tokens=torch.tensor(tokens, dtype=torch.int64),
        staged_slots=torch.tensor(owners, dtype=torch.int64),
        staged_positions=torch.tensor(positions, dtype=torch.int64),
    )


def _decode_rows(
    rows: list[int],
    starts: list[int],
    lengths: list[int],
    slots: list[Slot],
    block_table: torch.Tensor,
    group: int,
    window: int,
) -> DecodeRows:
    closed = [closed_tokens(lengths[row] - 1, group, window, _readable(slots[row], group)) for row in rows]
    ends = torch.tensor([lengths[row] for row in rows], dtype=torch.int64)
    return DecodeRows(
        tokens=torch.tensor([starts[row] for row in rows], dtype=torch.int64),
        slots=torch.tensor([slots[row].index for row in rows], dtype=torch.int64),
        lengths=ends,
        closed=torch.tensor(closed, dtype=torch.int64),
        block_table=block_table[rows].contiguous(),
        closing=(ends % group == 0).nonzero().flatten(),
        max_closed=max(closed),
    )


def _prefill_row(
    start: int, before: int, after: int, slot: Slot, block_ids: torch.Tensor, group: int, window: int
) -> PrefillRow:
    floor = _readable(slot, group)
    segments = []
    position = before
    while position < after:
        closed = closed_tokens(position, group, window, floor)
        # The next group is read quantized from the query whose own token makes it `window` tokens old.
        end = min(closed + group + window - 1, after)
        segments.append((position, end, closed))
        position = end
    span_start = min(segments[0][2], before // group * group)
    return PrefillRow(start, before, after, slot, block_ids.contiguous(), span_start, segments)


def _readable(slot: Slot, group: int) -> int:
    if slot.readable_from % group:
        raise RuntimeError(f"KIVI: a request starts at token {slot.readable_from}, inside a key group of {group}")
    return slot.readable_from
