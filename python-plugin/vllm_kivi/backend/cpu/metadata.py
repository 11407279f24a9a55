"""What a step's batch asks of the cache, worked out once a step on the host and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from vllm.v1.attention.backend import AttentionMetadata, AttentionMetadataBuilder, CommonAttentionMetadata

from vllm_kivi.cache.staging import Slot, SlotPool, building
from vllm_kivi.compat.facts import draft_tokens
from vllm_kivi.config import KiviConfig
from vllm_kivi.reference import closed_keys, rough_values
from vllm_kivi.settings import config_of


class Segment(NamedTuple):
    """Queries [first, last) (positions) of a row that read the same keys quantized.

    Attributes:
        closed: leading tokens whose keys they read quantized.
        rough: leading tokens whose values all of them read quantized; those after it depend on the query.
    """

    first: int
    last: int
    closed: int
    rough: int


@dataclass
class PrefillRow:
    """A row with more than one token in this step.

    Attributes:
        first_token: index of its first token in the step's tokens.
        computed, length: tokens before this step, and after it.
        block_ids: int32 [blocks].
        key_start, value_start: oldest token needed in full precision, at most ``computed``.
        value_residual, value_window: of the format.
    """

    first_token: int
    computed: int
    length: int
    slot: Slot
    block_ids: torch.Tensor
    key_start: int
    value_start: int
    value_residual: int
    value_window: int
    segments: list[Segment]

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
        closed, rough: leading tokens whose keys and values are read quantized.
        closing: rows whose group is complete with this token.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    closed: torch.Tensor
    rough: torch.Tensor
    block_table: torch.Tensor
    closing: torch.Tensor
    max_length: int


@dataclass
class Staged:
    """Tokens of a step to keep in a ring, int64 [n]: index among the step's tokens, slot, position."""

    tokens: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor


@dataclass
class KiviMetadata(AttentionMetadata):
    """One step.

    Attributes:
        num_tokens: tokens of the step, padding excluded.
        slot_mapping: int64 [num_tokens], vLLM's: block * block size + token of the block.
        decode: None when no row decodes.
        staged_keys, staged_values: what the rings take.
    """

    num_tokens: int
    slot_mapping: torch.Tensor
    decode: DecodeRows | None
    prefill: list[PrefillRow]
    staged_keys: Staged
    staged_values: Staged


class KiviMetadataBuilder(AttentionMetadataBuilder[KiviMetadata]):
    """Builds :class:`KiviMetadata` from vLLM's common metadata and the runner's slots."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.config = config_of(vllm_config)
        self.draft_tokens = draft_tokens(vllm_config)
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
        meta = build_metadata(
            self.config,
            starts,
            lengths,
            self.pool.rows(common.num_reqs),
            common.block_table_tensor,
            common.slot_mapping,
            self.draft_tokens,
        )
        if self.pool.auditor is not None:
            self.pool.auditor.built = meta
        return meta


def build_metadata(
    config: KiviConfig,
    starts: list[int],
    lengths: list[int],
    slots: list[Slot],
    block_table: torch.Tensor,
    slot_mapping: torch.Tensor,
    draft_tokens: int = 0,
) -> KiviMetadata:
    """Metadata of one step.

    Args:
        starts: first token of each row, and the end of the last.
        lengths: tokens of each row after this step; a row of no tokens is padding.
        block_table: int32 [rows, blocks].
        slot_mapping: int64 [>= tokens].
        draft_tokens: that the rings have room for.
    """
    counts = [end - start for start, end in pairwise(starts)]
    rows = list(zip(range(len(counts)), counts, lengths, strict=True))
    decode = [row for row, count, _ in rows if count == 1]
    prefill = [
        _prefill_row(config, starts[row], length - count, length, slots[row], block_table[row])
        for row, count, length in rows
        if count > 1
    ]

    def staged(ring: int) -> Staged:
        """The newest tokens of each row, as many as its ring holds."""
        kept = [(row, max(count - ring, 0), count, length - count) for row, count, length in rows if count > 0]
        return Staged(
            _int64([starts[row] + n for row, first, count, _ in kept for n in range(first, count)]),
            _int64([slots[row].index for row, first, count, _ in kept for _ in range(first, count)]),
            _int64([computed + n for _, first, count, computed in kept for n in range(first, count)]),
        )

    return KiviMetadata(
        num_tokens=starts[-1],
        slot_mapping=slot_mapping[: starts[-1]],
        decode=_decode_rows(config, decode, starts, lengths, slots, block_table) if decode else None,
        prefill=prefill,
        staged_keys=staged(config.key_staging_tokens(draft_tokens)),
        staged_values=staged(config.value_staging_tokens(draft_tokens)),
    )


def _decode_rows(
    config: KiviConfig,
    rows: list[int],
    starts: list[int],
    lengths: list[int],
    slots: list[Slot],
    block_table: torch.Tensor,
) -> DecodeRows:
    group = config.key_group
    positions = [(lengths[row] - 1, _readable(slots[row], group)) for row in rows]
    ends = _int64([lengths[row] for row in rows])
    return DecodeRows(
        tokens=_int64([starts[row] for row in rows]),
        slots=_int64([slots[row].index for row in rows]),
        lengths=ends,
        closed=_int64([closed_keys(position, group, config.key_window, floor) for position, floor in positions]),
        rough=_int64(
            [rough_values(position, config.value_residual, config.value_window, floor) for position, floor in positions]
        ),
        block_table=block_table[rows].contiguous(),
        closing=(ends % group == 0).nonzero().flatten(),
        max_length=int(ends.max()),
    )


def _prefill_row(
    config: KiviConfig, start: int, computed: int, length: int, slot: Slot, block_ids: torch.Tensor
) -> PrefillRow:
    group, window, floor = config.key_group, config.key_window, _readable(slot, config.key_group)
    segments = []
    position = computed
    while position < length:
        closed = closed_keys(position, group, window, floor)
        end = min(closed + group + window, length)  # whose query is past the next group by the window
        rough = rough_values(position, config.value_residual, config.value_window, floor)
        segments.append(Segment(position, end, closed, rough))
        position = end
    return PrefillRow(
        first_token=start,
        computed=computed,
        length=length,
        slot=slot,
        block_ids=block_ids.contiguous(),
        key_start=segments[0].closed,  # at or before the group that is open
        value_start=segments[0].rough,
        value_residual=config.value_residual,
        value_window=config.value_window,
        segments=segments,
    )


def _readable(slot: Slot, group: int) -> int:
    if slot.readable_from % group:
        raise RuntimeError(f"KIVI: a request starts at token {slot.readable_from}, inside a key group of {group}")
    return slot.readable_from


def _int64(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
