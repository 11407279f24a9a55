"""Prefill as plain attention: which units of a slab each call reads, so that every query reads what its position asks.

Queries of one key group read the same tokens quantized, the rest exactly. So each becomes a sequence of its own: its
keys are units of the slab, quantized ones first, its exact ones last, and its queries are its newest tokens, which is
what causal FlashAttention over a paged cache takes. Where a row's context is longer than the slab, older parts of it
come in further calls, merged by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vllm_kivi.config import KiviConfig


@dataclass(frozen=True)
class Reach:
    """What queries read exactly, for formats in which keys and values agree on it.

    Attributes:
        group: tokens of a unit.
        window: tokens before a query's own group that it reads exactly; a multiple of ``group``.
    """

    group: int
    window: int


def reach_of(config: KiviConfig) -> Reach | None:
    """None where a group's queries read keys and values exactly from different places on."""
    same = config.key_group == config.value_residual and config.key_window == config.value_window
    if not same or config.key_window % config.key_group:
        return None
    return Reach(config.key_group, config.key_window)


def least_units(reach: Reach, max_tokens: int) -> int:
    """Units that the exact tokens of any row may take, if a step has at most ``max_tokens``; and one quantized."""
    return -(-max_tokens // reach.group) + reach.window // reach.group + 3


@dataclass(frozen=True)
class Piece:
    """One call of FlashAttention.

    Attributes:
        first, last: its queries, tokens of the step.
        units: int32 [3, n] of :func:`vllm_kivi.kernels.slab.fill_slab`; all sequences' keys.
        starts: int32 [S + 1], first query of each sequence, counted from ``first``.
        keys: int32 [S], how many keys each has; may be 0 if ``older``.
        table: int32 [S, most], units of each sequence.
        most_queries, most_keys: of a sequence.
        older: it continues the piece before, with older tokens of the same queries, all of which they read.
    """

    first: int
    last: int
    units: np.ndarray
    starts: np.ndarray
    keys: np.ndarray
    table: np.ndarray
    most_queries: int
    most_keys: int
    older: bool


@dataclass(frozen=True)
class _Row:
    """A row's sequences: ``rough`` quantized units of each [S], and its exact ones from there to ``own``."""

    index: int
    first: int  # its first query, token of the step
    queries: np.ndarray  # [S]
    rough: np.ndarray  # [S]
    own: np.ndarray  # [S], unit of the queries
    ends: np.ndarray  # [S], tokens up to the last query

    @property
    def exact(self) -> int:
        """Exact units that any of its queries reads."""
        return int(self.own[-1] - self.rough[0] + 1)

    @property
    def units(self) -> int:
        return int(self.rough[-1]) + self.exact


def plan_pieces(
    starts: Sequence[int], lengths: Sequence[int], readable: Sequence[int], reach: Reach, capacity: int
) -> list[Piece] | None:
    """The calls for a step's rows.

    Args:
        starts: [B + 1], first token of each row, and the end.
        lengths: [B], tokens of each row, this step's included.
        readable: [B], tokens that exist only quantized.
        capacity: units of the slab, at least :func:`least_units`.

    Returns:
        None where a row's tokens exist only quantized up to the middle of a unit.
    """
    if any(first % reach.group for first in readable):
        return None
    pieces: list[Piece] = []
    together: list[_Row] = []
    for index, (first, last, length) in enumerate(zip(starts[:-1], starts[1:], lengths, strict=True)):
        if first == last:
            continue
        row = _row(index, first, last - first, length, readable[index], reach)
        if together and sum(other.units for other in together) + row.units > capacity:
            pieces.append(_piece(together, reach))
            together = []
        if row.units > capacity:
            pieces += _long(row, reach, capacity)
        else:
            together.append(row)
    return [*pieces, _piece(together, reach)] if together else pieces


def _row(index: int, first: int, count: int, length: int, readable: int, reach: Reach) -> _Row:
    before, group = length - count, reach.group
    own = np.arange(before // group, (length - 1) // group + 1)
    ends = np.minimum((own + 1) * group, length)
    rough = np.maximum(np.maximum(own * group - reach.window, 0), readable) // group
    return _Row(index, first, ends - np.maximum(own * group, before), rough, own, ends)


def _long(row: _Row, reach: Reach, capacity: int) -> list[Piece]:
    """A row that does not fit: its newest units first, so that every query has a key, then older ones."""
    begin = row.units - capacity
    parts = [_piece([row], reach, begin)]
    for start in range(0, begin, capacity):
        end = min(start + capacity, begin)
        keys = (np.minimum(row.rough, end) - start).clip(0) * reach.group
        table = np.broadcast_to(np.arange(end - start), (len(keys), end - start))
        parts.append(_make([row], reach, [_quantized(row, start, end, reach)], keys, table, older=True))
    return parts


def _quantized(row: _Row, start: int, end: int, reach: Reach) -> np.ndarray:
    unit = np.arange(start, end)
    return np.stack([np.full_like(unit, row.index), unit * reach.group, np.zeros_like(unit)])


def _piece(rows: list[_Row], reach: Reach, begin: int = 0) -> Piece:
    """All exact units of some rows and their quantized ones from ``begin`` on."""
    units, tables, keys, base = [], [], [], 0
    for row in rows:
        rough, deepest = np.maximum(row.rough - begin, 0), int(row.rough[-1])
        quantized = max(deepest - begin, 0)
        exact = np.arange(row.rough[0], row.own[-1] + 1)
        units += [
            _quantized(row, begin, begin + quantized, reach),
            np.stack([np.full_like(exact, row.index), exact * reach.group, np.ones_like(exact)]),
        ]
        # A sequence's units: its quantized ones, then the exact ones from the same unit on.
        width = rough + row.own - row.rough + 1
        at = np.arange(width.max())[None, :]
        skipped = quantized + row.rough - row.rough[0] - rough
        table = np.where(at < rough[:, None], at, at + skipped[:, None]) + base
        tables.append(np.where(at < width[:, None], table, 0))
        keys.append(row.ends - np.minimum(row.rough, begin) * reach.group)
        base += quantized + len(exact)
    most = max(table.shape[1] for table in tables)
    table = np.concatenate([np.pad(table, ((0, 0), (0, most - table.shape[1]))) for table in tables])
    return _make(rows, reach, units, np.concatenate(keys), table, older=False)


def _make(
    rows: list[_Row], reach: Reach, units: list[np.ndarray], keys: np.ndarray, table: np.ndarray, older: bool
) -> Piece:
    queries = np.concatenate([row.queries for row in rows])
    starts = np.concatenate([[0], queries.cumsum()])
    return Piece(
        first=rows[0].first,
        last=rows[0].first + int(starts[-1]),
        units=np.concatenate(units, 1).astype(np.int32),
        starts=starts.astype(np.int32),
        keys=keys.astype(np.int32),
        table=np.ascontiguousarray(table, dtype=np.int32),
        most_queries=int(queries.max()),
        most_keys=table.shape[1] * reach.group,
        older=older,
    )
