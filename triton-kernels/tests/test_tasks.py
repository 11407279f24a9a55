"""Tasks of a decode step: each row's groups once and in order, in shares that fill the GPU, whatever the lengths."""

from __future__ import annotations

import pytest
import torch
from batches import DEVICE

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.attend import min_groups_of_a_split, windows_of
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.tasks import MOST_SPLITS, Plan, most_tasks, plan_tasks
from vllm_kivi.reference import closed_keys

ONE_LONG = [30000, *[200] * 15]
CASES = {
    "equal": ([30000] * 16, 8, 132),
    "one-row": ([131072], 8, 132),
    "one-row-one-head": ([131072], 1, 132),
    "one-long": (ONE_LONG, 8, 132),
    "many": ([2048] * 256, 8, 396),
    "short": ([1, 100, 128, 129, 5], 8, 132),
    "padded": ([0, 3000, 0, 0, 700, 0], 2, 20),
    "random": (torch.randint(1, 9000, (100,), generator=torch.Generator().manual_seed(5)).tolist(), 4, 396),
}


def plan(
    preset: str,
    lengths: list[int],
    heads: int,
    blocks: int,
    readable: int = 0,
    few: int | None = None,
    slots: list[int] | None = None,
) -> tuple[list[list[int]], int]:
    """Tasks, and whether append.py closes groups."""
    config = PRESETS[preset]
    starts = torch.tensor([0, *(min(n, 1) for n in lengths)]).cumsum(0).int()
    tensors = (starts, torch.tensor(lengths).int(), torch.zeros(len(lengths), 1).int())
    readables = torch.full((len(lengths),), readable, dtype=torch.int32)
    batch = Batch(*(x.to(DEVICE) for x in (*tensors, readables, readables)))
    tasks = torch.full((most_tasks(len(lengths), heads, blocks) + 7, 4), 99, dtype=torch.int32, device=DEVICE)
    made = Plan(tasks, torch.full((1,), 99, dtype=torch.int32, device=DEVICE))
    slot_mapping = torch.tensor(slots or [0] * int(starts[-1]), device=DEVICE)
    plan_tasks(config.layout(128, 128), windows_of(config), made, batch, slot_mapping, heads, blocks, few)
    return tasks.tolist(), int(made.closing)


def planned(preset: str, lengths: list[int], heads: int, blocks: int, readable: int = 0) -> list[list[int]]:
    return plan(preset, lengths, heads, blocks, readable)[0]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", CASES)
def test_every_group_once(preset: str, case: str) -> None:
    lengths, heads, blocks = CASES[case]
    config = PRESETS[preset]
    tasks = planned(preset, lengths, heads, blocks)
    live = [task for task in tasks if task[0] >= 0]
    assert all(task[0] == -1 for task in tasks[len(live) :])
    assert len(live) <= most_tasks(len(lengths), heads, blocks)
    per_block = 128 // config.key_group
    expected = []
    for row, length in enumerate(lengths):
        if length == 0:
            continue
        groups = closed_keys(length - 1, config.key_group, config.key_window) // config.key_group
        splits, share = next(task[2:] for task in live if task[0] == row)
        assert 1 <= splits <= MOST_SPLITS
        assert share % per_block == 0
        assert share >= min_groups_of_a_split(config.layout(128, 128))
        assert (splits - 1) * share < max(groups, 1) <= splits * share
        expected += [[row, split, splits, share] for split in range(splits)]
    assert live == expected


def test_equal_rows_fill_the_gpu_once() -> None:
    assert sum(task[0] >= 0 for task in planned("k4v4", *CASES["equal"])) * 8 == 128
    assert sum(task[0] >= 0 for task in planned("k4v4", *CASES["one-row"])) * 8 == 128


def test_a_long_row_among_short_ones_is_split_over_the_gpu() -> None:
    tasks = planned("k4v4", *CASES["one-long"])
    assert sum(task[0] == 0 for task in tasks) * 8 > 100
    assert [task[2] for task in tasks if task[0] > 0] == [1] * 15


def test_what_a_prefix_hit_restored_counts_as_quantized() -> None:
    tasks = planned("k4v2", [1024 + 1], 1, 4, readable=1024)
    assert sum(task[3] for task in tasks if task[0] == 0) >= 8


CLOSING = [128, 0, 256, 129, 3 * 128, 100, 40 * 128]
"""Lengths of rows, of which four complete a group."""


def closing_tasks(tasks: list[list[int]]) -> list[list[int]]:
    return [task for task in tasks if task[3] < 0]


@pytest.mark.parametrize("few", [4, 9, None])
def test_append_closes_the_groups_of_a_few_rows(few: int | None) -> None:
    tasks, closing = plan("k4v4", CLOSING, 2, 20, few=few)
    assert closing == 1
    assert closing_tasks(tasks) == []


@pytest.mark.parametrize("few", [0, 3])
def test_decode_closes_more_with_the_last_split_of_each(few: int) -> None:
    tasks, closing = plan("k4v4", CLOSING, 2, 20, few=few)
    assert closing == 0
    found = closing_tasks(tasks)
    assert [task[0] for task in found] == [0, 2, 4, 6]
    assert all(split == splits - 1 for _, split, splits, _ in found)
    assert found[-1][2] > 1
    assert [[*task[:3], abs(task[3])] for task in tasks] == planned("k4v4", CLOSING, 2, 20)


def test_append_closes_all_where_a_row_may_read_what_another_closes() -> None:
    tasks, closing = plan("k4v4", [128, 256, 384, 512, 257], 2, 20, readable=256, few=1)
    assert closing == 1
    assert closing_tasks(tasks) == []


@pytest.mark.parametrize("few", [0, None])
def test_nobody_closes_where_no_group_is_complete(few: int | None) -> None:
    tasks, closing = plan("k4v4", [127, 0, 1, 300], 2, 20, few=few)
    assert closing == 0
    assert closing_tasks(tasks) == []


def test_rows_without_a_slot_close_nothing() -> None:
    tasks, closing = plan("k4v4", [128, 0, 256, 384], 2, 20, few=1, slots=[-1, 5, 7])
    assert [task[0] for task in closing_tasks(tasks)] == [2, 3]
    assert closing == 0
    tasks, closing = plan("k4v4", [128, 0, 256, 384], 2, 20, few=2, slots=[-1, 5, 7])
    assert closing_tasks(tasks) == []
    assert closing == 1
