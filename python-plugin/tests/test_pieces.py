"""Every query of a step reads each unit up to its own exactly once, quantized or not as its position asks."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from vllm_kivi.backend.gpu.pieces import Piece, Reach, least_units, plan_pieces

Unit = tuple[int, int, int]
"""Row, first token, and whether it is read exactly."""


def read_by(pieces: list[Piece], reach: Reach) -> dict[int, list[Unit]]:
    """The units of each query, a token of the step."""
    found = defaultdict(list)
    for piece in pieces:
        for sequence, keys in enumerate(piece.keys.tolist()):
            queries = range(*(piece.first + piece.starts[sequence : sequence + 2]))
            assert len(queries) <= piece.most_queries
            assert keys <= piece.most_keys
            units = piece.table[sequence, : -(-keys // reach.group)]
            for query in queries:
                found[query] += [tuple(unit) for unit in piece.units[:, units].T.tolist()]
    return found


def expected(starts: list[int], lengths: list[int], readable: list[int], reach: Reach) -> dict[int, list[Unit]]:
    found = {}
    for row, (first, last) in enumerate(pairwise(starts)):
        for query in range(first, last):
            position = lengths[row] - (last - query)
            own = position // reach.group * reach.group
            exact = max(own - reach.window, readable[row])
            found[query] = [(row, token, int(token >= exact)) for token in range(0, own + 1, reach.group)]
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_step(seed: int) -> None:
    rng = random.Random(seed)
    group = rng.choice([32, 128])
    reach = Reach(group, group * rng.choice([0, 1, 3]))
    counts = [
        rng.choice([0, 1, group - 1, group, 3 * group + 7, rng.randint(1, 500)]) for _ in range(rng.randint(1, 6))
    ]
    befores = [rng.choice([0, 5, group, 9 * group + 3]) for _ in counts]
    lengths = [count + before for count, before in zip(counts, befores, strict=True)]
    readable = [rng.choice([0, before // group * group]) for before in befores]
    starts = [sum(counts[:row]) for row in range(len(counts) + 1)]
    capacity = least_units(reach, max(sum(counts), 1)) + rng.choice([0, 3, 500])
    pieces = plan_pieces(starts, lengths, readable, reach, capacity)
    assert pieces is not None
    found = read_by(pieces, reach)
    assert {query: sorted(units) for query, units in found.items()} == expected(starts, lengths, readable, reach)
    assert all(piece.units.shape[1] <= capacity for piece in pieces)


def test_rows_that_fit_together_are_one_call() -> None:
    pieces = plan_pieces([0, 32, 132, 132, 1132], [32, 100, 7, 5000], [0, 0, 0, 4096], Reach(128, 0), 200)
    assert pieces is not None
    assert [(piece.first, piece.last, piece.older) for piece in pieces] == [(0, 1132, False)]


def test_a_step_without_prompts_has_no_call() -> None:
    assert plan_pieces([0, 0], [7], [0], Reach(128, 0), 200) == []


def test_a_row_restored_to_the_middle_of_a_unit_has_none() -> None:
    assert plan_pieces([0, 10], [74], [64], Reach(128, 0), 200) is None
