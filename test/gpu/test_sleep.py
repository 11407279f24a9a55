"""vLLM's sleep: memory is given away and taken again, with anything in it; answers after it are those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engines import check, check_same_tokens, open_engine
from inprocess import generate, runner_of
from models import TinyModel, write_checkpoint
from support import prompt

MODEL = TinyModel(128, 2, 4, layers=3)
LENGTHS = (1, 120, 127, 128, 300, 700)


def fill_what_sleep_dropped(llm: Any) -> None:
    """What a real server finds in the place of its cache: other processes' bytes."""
    for layer in runner_of(llm).compilation_config.static_forward_context.values():
        layer.kv_cache.fill_(255)


@pytest.mark.parametrize("level", [1, 2])
def test_answers_after_sleep(level: int, checkpoints: Path) -> None:
    checkpoint = write_checkpoint(MODEL, checkpoints)
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    with open_engine(checkpoint, enable_sleep_mode=True, dtype="bfloat16") as llm:
        before = generate(llm, prompts, 140)
        free = torch.cuda.mem_get_info()[0]
        llm.sleep(level)
        assert torch.cuda.mem_get_info()[0] - free > 900 << 20, "the cache was not given away"
        llm.wake_up()
        if level == 2:
            llm.collective_rpc("reload_weights")
        fill_what_sleep_dropped(llm)
        after = generate(llm, prompts, 140)
    assert [output.num_cached_tokens for output in after] == [0] * len(prompts)
    check(after, checkpoint, MODEL.head_size, "kivi_k4v4", "bfloat16")
    check_same_tokens(after, before)
