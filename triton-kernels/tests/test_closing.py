"""Which of append.py and decode.cu closes a step's key groups, and that one of them does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import DEVICE, Row, Step

from vllm_kivi.config import PRESETS, KiviConfig
from vllm_kivi.kernels import decode, few
from vllm_kivi.kernels.append import append_tokens
from vllm_kivi.kernels.tasks import Plan, most_tasks, plan_tasks

CONFIG = replace(PRESETS["k4v4"], rotation=False)  # so that both sides quantize the same numbers
K4V2 = replace(PRESETS["k4v2"], rotation=False)
CLOSING = [Row(127, 1), Row(255, 1), Row(100, 1), Row(0, 0), Row(383, 1), Row(128, 1)]


def appended(rows: list[Row], most: int) -> Step:
    """After append.py, before decode.cu; ``most`` rows count as few."""
    step = Step(CONFIG, rows, 64, 2, 1, torch.float16).ready()
    tasks = torch.zeros(most_tasks(len(rows), 2, 4), 4, dtype=torch.int32, device=step.out.device)
    plan = Plan(tasks, torch.zeros(1, dtype=torch.int32, device=step.out.device))
    plan_tasks(step.layout, step.windows, plan, step.batch, step.slot_mapping, 2, 4, most)
    append_tokens(
        step.layout, step.pages, step.batch, step.slot_mapping, step.fresh_query, step.fresh_key, step.fresh_value,
        torch.empty(step.fresh_query.shape, device=step.out.device), *step.rings, CONFIG.clipping, CONFIG.rotation,
        plan,
    )  # fmt: skip
    return step


@pytest.mark.parametrize("most", [3, 9])
def test_a_few_rows_close_before_decode(most: int) -> None:
    assert appended(CLOSING, most).wrong_bytes() == 0


def test_more_are_left_to_decode() -> None:
    step = appended(CLOSING, 2)
    keys = slice(0, step.layout.value_codes_offset)
    assert torch.equal(step.pages.cpu()[..., keys], step.before_pages[..., keys])
    assert step.wrong_bytes() > 0


def test_all_close_before_decode_where_a_row_may_read_what_another_closes() -> None:
    assert appended([*CLOSING, Row(256, 1, readable_from=256)], 2).wrong_bytes() == 0


def test_what_counts_as_few_fits_the_programs() -> None:
    layout = CONFIG.layout(128, 128)
    assert (
        decode.few_closing_rows(layout, 1, torch.device(DEVICE))
        >= decode.few_closing_rows(layout, 8, torch.device(DEVICE))
        >= 1
    )


def test_decode_leaves_formats_to_append_that_it_cannot_close() -> None:
    """Head sizes whose tokens do not begin with a word in a ring, keys of two bits."""
    assert decode.closes(CONFIG.layout(96, 128))
    assert not decode.closes(CONFIG.layout(80, 128))
    assert decode.closes(PRESETS["k4v2"].layout(128, 128))
    assert not decode.closes(PRESETS["k2v2"].layout(128, 128))


@pytest.mark.skipif(DEVICE != "cuda", reason="decode.cu needs a GPU")
@pytest.mark.parametrize(
    ("config", "head_size", "block_size"),
    [(CONFIG, 128, 128), (CONFIG, 64, 128), (CONFIG, 96, 128), (CONFIG, 128, 256), (K4V2, 128, 128), (K4V2, 64, 128)],
    ids=["128", "64", "96", "blocks-of-256", "k4v2-128", "k4v2-64"],
)
@pytest.mark.parametrize("rows", [3, 60, 400], ids=["few", "some", "many"])
def test_decode_closes_groups(
    config: KiviConfig, head_size: int, block_size: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few, "few_closing_rows", lambda *_: 0)
    generator = torch.Generator().manual_seed(rows)
    befores = (
        torch.randint(1, 6, (rows,), generator=generator) * 128 - 1 - torch.randint(0, 2, (rows,), generator=generator)
    )
    step = Step(config, [Row(int(n), 1) for n in befores], head_size, 4, 2, torch.bfloat16, block_size).ready()
    assert decode.closes(step.layout)
    step.run_few(4)
    assert step.wrong_bytes() == 0
    torch.testing.assert_close(step.out.cpu(), step.expected_output(), rtol=0.02, atol=0.02)
