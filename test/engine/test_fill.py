"""The benchmark's proof of a capacity, in a real engine: all blocks taken at one moment, nothing computed twice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import MEGABYTE
from inprocess import scheduler_of
from models import TinyModel, write_checkpoint
from support import prompt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from kivi_bench import fill

MODEL = TinyModel(64, 2, 3)


@pytest.mark.parametrize(("cache", "longest"), [("auto", 512), ("kivi_k4v4", 4096)])
def test_the_cache_holds_what_vllm_counts(cache: str, longest: int, checkpoints: Path, engine: Any) -> None:
    small = {"kv_cache_memory_bytes": 6 * MEGABYTE, "max_num_batched_tokens": 512, "max_model_len": longest}
    with engine(write_checkpoint(MODEL, checkpoints), kv_cache_dtype=cache, **small) as llm:
        config = llm.llm_engine.vllm_config.cache_config
        pool = scheduler_of(llm).kv_cache_manager.block_pool
        free: list[int] = []
        step = llm.llm_engine.step

        def watched() -> Any:
            answers = step()
            free.append(pool.get_num_free_blocks())
            return answers

        llm.llm_engine.step = watched
        tokens = config.num_gpu_blocks * config.block_size

        def filled(claimed: int) -> dict[str, Any]:
            return fill.run(llm, claimed, lambda length: prompt(length, seed=length), lambda _: None)

        found = filled(tokens)
        assert found["preemptions"] == 0
        assert found["filled_sequences"] == found["sequences"] > 1
        assert found["filled_tokens"] > 0.95 * (tokens - 2 * config.block_size)
        # The scheduler's own pool agrees: hardly a block was free.
        assert min(free) <= 2
        # A count of more than there is has no proof: sequences wait, or push each other out.
        over = filled(tokens + longest)
        assert over["filled_tokens"] <= tokens
        assert over["filled_tokens"] / over["tokens"] < 0.9
