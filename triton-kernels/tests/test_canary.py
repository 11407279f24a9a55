"""The part of the GPU's start-up canary that compares kernels with each other."""

from __future__ import annotations

import pytest
import torch
from batches import DEVICE

from vllm_kivi.backend.canary import CanaryError
from vllm_kivi.backend.gpu.canary import check_closing
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels import append

CONFIG, HEADS = PRESETS["k4v4"], 2
LAYOUT = CONFIG.layout(64, 128)
GPU, COMPILED = torch.device(DEVICE), DEVICE == "cuda"


@pytest.mark.parametrize("preset", ["k4v4", "k4v2"])
def test_many_rows_close_their_groups_as_one_does(preset: str) -> None:
    config = PRESETS[preset]
    layout = config.layout(64, 128)
    assert append.rows_that_close_whole_heads(layout, HEADS, GPU) > 1
    check_closing(config, layout, HEADS, 2 * HEADS, torch.float16, GPU, COMPILED)


def test_a_difference_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    right = append.append_tokens

    def wrong(layout: object, pages: torch.Tensor, batch: object, *rest: object) -> None:
        right(layout, pages, batch, *rest)
        pages[2, 0, 5] = pages[1, 0, 5] ^ 1

    monkeypatch.setattr("vllm_kivi.backend.gpu.canary.append_tokens", wrong)
    with pytest.raises(CanaryError, match=r"failed in closing a key group of .* rows at once: 1 bytes of"):
        check_closing(CONFIG, LAYOUT, HEADS, 2 * HEADS, torch.float16, GPU, COMPILED)


def test_formats_that_have_one_way_only() -> None:
    assert append.rows_that_close_whole_heads(PRESETS["k2v2"].layout(64, 128), HEADS, GPU) == 0
