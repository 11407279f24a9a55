"""Tasks of a decode step: each row's groups once and in order, in shares that fill the GPU, whatever the lengths."""

from __future__ import annotations

import pytest
import torch
from batches import DEVICE

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.attend import min_groups_of_a_split, windows_of
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.tasks import MOST_SPLITS, most_tasks, plan_tasks
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


def planned(preset: str, lengths: list[int], heads: int, blocks: int, readable: int = 0) -> list[list[int]]:
    config = PRESETS[preset]
    starts = torch.tensor([0, *(min(n, 1) for n in lengths)]).cumsum(0).int()
    tensors = (starts, torch.tensor(lengths).int(), torch.zeros(len(lengths), 1).int())
    readables = torch.full((len(lengths),), readable, dtype=torch.int32)
    batch = Batch(*(x.to(DEVICE) for x in (*tensors, readables, readables)))
    tasks = torch.full((most_tasks(len(lengths), heads, blocks) + 7, 4), 99, dtype=torch.int32, device=DEVICE)
    plan_tasks(config.layout(128, 128), windows_of(config), tasks, batch, heads, blocks)
    return tasks.tolist()


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
