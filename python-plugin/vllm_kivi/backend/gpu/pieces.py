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
class _Rows:
    """Rows, and their sequences one after another: for each as many as key groups that its queries lie in.

    Attributes:
        index, first: [B], row of the step, and its first query, token of the step.
        begins: [B + 1], first sequence of each row, counted from that of the first, and the end.
        queries, ends: [S], queries of each sequence, and tokens up to the last of them.
        rough: [S], quantized units of each; its exact ones go from there to ``own``, the unit of its queries.
        own: [S].
    """

    index: np.ndarray
    first: np.ndarray
    begins: np.ndarray
    queries: np.ndarray
    ends: np.ndarray
    rough: np.ndarray
    own: np.ndarray

    @property
    def shallowest(self) -> np.ndarray:
        """[B], first unit that any query of a row reads exactly."""
        return np.take(self.rough, self.begins[:-1])

    @property
    def deepest(self) -> np.ndarray:
        """[B], quantized units that a row's last queries read."""
        return np.take(self.rough, self.begins[1:] - 1)

    @property
    def exact(self) -> np.ndarray:
        """[B], exact units that any query of a row reads."""
        units: np.ndarray = np.take(self.own, self.begins[1:] - 1) - self.shallowest + 1
        return units

    @property
    def units(self) -> np.ndarray:
        """[B], all that a row takes of a slab."""
        units: np.ndarray = self.deepest + self.exact
        return units

    def part(self, first: int, last: int) -> _Rows:
        """Some of them."""
        if (first, last) == (0, len(self.index)):
            return self
        begin, end = self.begins[first], self.begins[last]
        sequences = slice(begin, end)
        return _Rows(
            self.index[first:last],
            self.first[first:last],
            self.begins[first : last + 1] - begin,
            self.queries[sequences],
            self.ends[sequences],
            self.rough[sequences],
            self.own[sequences],
        )


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
    rows = _rows(starts, lengths, readable, reach)
    pieces: list[Piece] = []
    begin, together = 0, 0
    for row, units in enumerate(rows.units.tolist()):
        if begin < row and together + units > capacity:
            pieces.append(_piece(rows.part(begin, row), reach))
            begin, together = row, 0
        if units > capacity:
            pieces += _long(rows.part(row, row + 1), reach, capacity)
            begin = row + 1
        else:
            together += units
    if begin < len(rows.index):
        pieces.append(_piece(rows.part(begin, len(rows.index)), reach))
    return pieces


def _rows(starts: Sequence[int], lengths: Sequence[int], readable: Sequence[int], reach: Reach) -> _Rows:
    """Those with tokens in the step."""
    edges, group = np.array(starts, dtype=np.int64), reach.group
    index = np.diff(edges).nonzero()[0]
    first, length, restored = edges[index], *(np.array(each, dtype=np.int64)[index] for each in (lengths, readable))
    before = length - (edges[index + 1] - first)
    oldest = before // group
    counts = (length - 1) // group + 1 - oldest
    begins = _sums(counts)

    def of_sequences(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, counts)

    own = np.arange(begins[-1]) + of_sequences(oldest - begins[:-1])
    ends = np.minimum((own + 1) * group, of_sequences(length))
    queries = ends - np.maximum(own * group, of_sequences(before))
    rough = np.maximum(own * group - reach.window, of_sequences(restored)).clip(0) // group
    return _Rows(index, first, begins, queries, ends, rough, own)


def _sums(counts: np.ndarray) -> np.ndarray:
    """Where each begins, and the end."""
    sums = np.zeros(len(counts) + 1, dtype=np.int64)
    counts.cumsum(out=sums[1:])
    return sums


def _long(row: _Rows, reach: Reach, capacity: int) -> list[Piece]:
    """A row that does not fit: its newest units first, so that every query has a key, then older ones."""
    begin = int(row.units[0]) - capacity
    parts = [_piece(row, reach, begin)]
    for start in range(0, begin, capacity):
        end = min(start + capacity, begin)
        keys = (np.minimum(row.rough, end) - start).clip(0) * reach.group
        table = np.broadcast_to(np.arange(end - start), (len(keys), end - start))
        unit = np.arange(start, end)
        units = np.stack([np.full_like(unit, row.index[0]), unit * reach.group, np.zeros_like(unit)])
        parts.append(_make(row, reach, units, keys, table, older=True))
    return parts


def _piece(rows: _Rows, reach: Reach, begin: int = 0) -> Piece:
    """All exact units of some rows and their quantized ones from ``begin`` on."""
    quantized, shallowest = (rows.deepest - begin).clip(0), rows.shallowest
    counts = quantized + rows.exact
    bases = _sums(counts)
    # Of each row its quantized units, then its exact ones.
    row = np.repeat(np.arange(len(counts)), counts)
    at = np.arange(bases[-1]) - bases[row]
    exact = at >= quantized[row]
    unit = at + np.where(exact, (shallowest - quantized)[row], begin)
    units = np.stack([rows.index[row], unit * reach.group, exact])
    # Of each sequence its quantized units, then the exact ones from the same unit on.
    row = np.repeat(np.arange(len(counts)), np.diff(rows.begins))
    rough = (rows.rough - begin).clip(0)
    width = rough + rows.own - rows.rough + 1
    skipped = rows.rough - rough + (quantized - shallowest)[row]
    column = np.arange(width.max())
    table = column + np.where(column < rough[:, None], 0, skipped[:, None]) + bases[row][:, None]
    keys = rows.ends - np.minimum(rows.rough, begin) * reach.group
    return _make(rows, reach, units, keys, np.where(column < width[:, None], table, 0), older=False)


def _make(rows: _Rows, reach: Reach, units: np.ndarray, keys: np.ndarray, table: np.ndarray, older: bool) -> Piece:
    starts = _sums(rows.queries)
    first = int(rows.first[0])
    return Piece(
        first=first,
        last=first + int(starts[-1]),
        units=units.astype(np.int32),
        starts=starts.astype(np.int32),
        keys=keys.astype(np.int32),
        table=np.ascontiguousarray(table, dtype=np.int32),
        most_queries=int(rows.queries.max()),
        most_keys=table.shape[1] * reach.group,
        older=older,
    )
