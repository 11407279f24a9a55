"""Prefill over slabs: pieces, the kernel that fills them, and a plain paged attention give what the reference gives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from batches import Row, Step
from test_attend import K2V2, K4V2, K4V4, MANY, PLAIN, WINDOWED, check

from vllm_kivi.backend.gpu.pieces import Piece, least_units, plan_pieces, reach_of
from vllm_kivi.config import PRESETS, KiviConfig
from vllm_kivi.kernels.many import Pair
from vllm_kivi.kernels.rotation import rotation_matrix
from vllm_kivi.kernels.slab import fill_slab
from vllm_kivi.reference import attention_over, merge

WIDE = replace(K4V4, key_window=256, value_window=256)


def _read(piece: Piece, query: torch.Tensor, slab: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What FlashAttention is asked for: outputs float32 [queries, Hq, D] and log-sum-exps [queries, Hq]."""
    outs, lses = [], []
    for s in range(len(piece.keys)):
        keys = int(piece.keys[s])
        key, value = (x[torch.from_numpy(piece.table[s]).long()].flatten(0, 1).transpose(0, 1) for x in slab)
        queries = range(piece.starts[s], piece.starts[s + 1])
        for i in queries:
            seen = keys if piece.older else keys - (queries.stop - 1 - i)  # causal, the newest query sees all
            if seen:
                out, lse = attention_over(query[i], key[:, :seen], value[:, :seen], scale)
            else:
                out, lse = torch.zeros_like(query[i]).float(), torch.full(query.shape[1:2], float("-inf"))
            outs.append(out)
            lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def attend_slabs(step: Step, staged: Pair, extra_units: int) -> int:
    """Returns how many pieces continued another."""
    reach = reach_of(step.config)
    assert reach is not None
    counts = [row.count for row in step.rows]
    capacity = least_units(reach, max(counts)) + extra_units
    starts = step.batch.query_start.tolist()
    pieces = plan_pieces(starts, step.lengths, [row.readable_from for row in step.rows], reach, capacity)
    assert pieces is not None
    assert {piece.units.shape[1] <= capacity for piece in pieces} == {True}
    key = staged[0]
    slab = torch.zeros(2, capacity, reach.group, *key.shape[1:], dtype=key.dtype, device=key.device)
    rotation = rotation_matrix(key.shape[2], key.device) if step.config.rotation else None
    lse = torch.empty(0)
    for piece in pieces:
        units = torch.from_numpy(piece.units).to(key.device)
        fill_slab(step.layout, (slab[0], slab[1]), units, rotation, step.pages, step.batch, step.rings, staged)
        part = slice(piece.first, piece.last)
        out, lse_of_piece = _read(piece, step.fresh_query[part].cpu(), slab.cpu(), step.scale)
        if piece.older:
            out, lse_of_piece = merge(step.out[part].cpu(), lse, out, lse_of_piece)
        step.out[part], lse = out.to(step.out.device), lse_of_piece
    return sum(piece.older for piece in pieces)


@pytest.mark.parametrize(
    ("config", "head_size", "ratio", "dtype", "rows"),
    [
        (K4V4, 64, 2, torch.float16, MANY),
        (PLAIN, 128, 1, torch.float16, MANY),
        (K4V2, 96, 3, torch.float16, [*MANY, Row(250, 140)]),
        (K2V2, 64, 1, torch.float16, [Row(0, 40), Row(300, 70), Row(320, 20, readable_from=320), Row(0, 0)]),
        (replace(K2V2, value_group=24, value_group_given=True), 72, 1, torch.float16, [Row(150, 30)]),
        (K4V2, 128, 1, torch.float16, [Row(150, 30)]),
        (K4V4, 256, 1, torch.float16, [Row(150, 30)]),
        (K4V4, 160, 1, torch.float16, [Row(150, 30)]),
        (K2V2, 32, 1, torch.float16, [Row(150, 30)]),
    ],
    ids=("k4v4", "plain", "k4v2-d96", "k2v2", "groups-across-parts", "k4v2", "wide", "wide-uneven", "narrow"),
)
@pytest.mark.parametrize("extra_units", [0, 6])
def test_slabs(
    config: KiviConfig, head_size: int, ratio: int, dtype: torch.dtype, rows: list[Row], extra_units: int
) -> None:
    step = Step(config, rows, head_size, 1, ratio, dtype).ready()
    step.run_many(partial(attend_slabs, extra_units=extra_units))
    check(step, 4e-3)


def test_context_longer_than_the_slab() -> None:
    """A chunk far into its row: older units come in several pieces, some of which its first queries do not read."""
    continued = []
    step = Step(WIDE, [Row(1000, 300), Row(20, 10)], 64, 1, 1, torch.float16).ready()
    step.run_many(lambda *args: continued.append(attend_slabs(*args, 0)))
    assert continued[0] > 0
    check(step, 4e-3)


def test_formats_that_read_keys_and_values_from_different_places() -> None:
    assert reach_of(WINDOWED) is None
    assert reach_of(replace(K4V4, key_window=40, value_window=40)) is None
    assert all(reach_of(config) is not None for config in PRESETS.values())


def test_a_hit_inside_a_unit_is_left_to_the_other_kernel() -> None:
    reach = reach_of(K4V4)
    assert reach is not None
    assert plan_pieces([0, 5], [100], [40], reach, 16) is None
