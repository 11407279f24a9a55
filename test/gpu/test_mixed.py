"""Layers that keep vLLM's own cache beside KIVI layers, with FlashAttention on padded pages."""

from __future__ import annotations

from pathlib import Path

from engines import check, check_same_tokens, open_engine
from inprocess import counter, generate
from models import TinyModel, WindowedModel, write_checkpoint
from support import prompt

WINDOWED = WindowedModel(128, 2, 4)
SKIPPING = TinyModel(128, 2, 4, layers=3)
LENGTHS = (1, 99, 101, 128, 129, 300, 700)


def test_windows(checkpoints: Path) -> None:
    """Windows of 100 tokens beside full layers, under V2; the pool is small enough for preemption."""
    checkpoint = write_checkpoint(WINDOWED, checkpoints)
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    with open_engine(
        checkpoint, max_model_len=1024, max_num_batched_tokens=150, dtype="bfloat16", num_gpu_blocks_override=45
    ) as llm:
        outputs = generate(llm, prompts, 60)
        miss, hit = (generate(llm, prompts[-2:-1], 60)[0] for _ in range(2))
        assert counter(llm, "vllm:num_preemptions") > 0
    check(outputs, checkpoint, WINDOWED.head_size, "kivi_k4v4", "bfloat16")
    assert hit.num_cached_tokens == 256
    check_same_tokens([hit], [miss])


def test_named_layers(checkpoints: Path) -> None:
    checkpoint = write_checkpoint(SKIPPING, checkpoints)
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    with open_engine(checkpoint, kv_cache_dtype_skip_layers=["1"]) as llm:
        outputs, again = (generate(llm, prompts, 140) for _ in range(2))
    check(outputs, checkpoint, SKIPPING.head_size, "kivi_k4v4", "float16", exact_layers={1})
    assert [output.num_cached_tokens for output in again] == [(n - 1) // 128 * 128 for n in LENGTHS]
    check_same_tokens(again, outputs)
