"""The GPU backend in the real engine: formats, runners and dtypes; chunks, decode and prefix hits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engines import check, check_same_tokens, open_engine
from inprocess import generate
from models import TinyModel, write_checkpoint
from support import prompt
from vllm.v1.attention.ops.merge_attn_states import merge_attn_states

from vllm_kivi.backend.gpu import prefill

MODEL = TinyModel(128, 2, 4, layers=3)
LENGTHS = (1, 120, 127, 128, 129, 250, 300, 700)


@pytest.mark.parametrize(
    ("preset", "dtype", "runner", "eager", "settings"),
    [
        ("kivi_k4v4", "bfloat16", "1", False, {}),
        ("kivi_k4v4", "float16", "0", False, {}),
        ("kivi_k2v2", "float16", "1", True, {}),
        ("kivi_k4v2", "bfloat16", "0", True, {}),
        ("kivi_k4v4", "float16", "1", True, {"key_group": 64}),
        ("kivi_k4v4", "bfloat16", "1", True, {"key_group": 256, "value_group": 32}),
    ],
    ids=["k4v4-v2-graphs", "k4v4-v1-graphs", "k2v2-v2-eager", "k4v2-v1-eager", "groups-of-64", "groups-of-256"],
)
def test_logits_and_prefix_hits(
    preset: str,
    dtype: str,
    runner: str,
    eager: bool,
    settings: dict[str, Any],
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Continuous batching, chunks of 600 tokens, decode over group edges; the same prompts again hit the cache."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
    checkpoint = write_checkpoint(MODEL, checkpoints)
    prompts = [prompt(n, seed=900 + n) for n in LENGTHS]
    extra = {"additional_config": {"kivi": settings}} if settings else {}
    with open_engine(checkpoint, kv_cache_dtype=preset, dtype=dtype, enforce_eager=eager, **extra) as llm:
        assert llm.llm_engine.vllm_config.use_v2_model_runner == (runner == "1")
        block = llm.llm_engine.vllm_config.cache_config.block_size
        miss, hit = (generate(llm, prompts, 140) for _ in range(2))
    check(miss, checkpoint, MODEL.head_size, preset, dtype, **settings)
    assert [output.num_cached_tokens for output in hit] == [(n - 1) // block * block for n in LENGTHS]
    if preset == "kivi_k4v4":
        check_same_tokens(hit, miss)


def test_prefill_longer_than_the_slab(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smallest slab, the last chunks of a prompt read their context in pieces, merged by log-sum-exp."""
    monkeypatch.setattr(prefill, "SLAB_BYTES", 1)
    merged = []
    monkeypatch.setattr(prefill, "merge_attn_states", lambda *args: (merged.append(1), merge_attn_states(*args)))
    checkpoint = write_checkpoint(MODEL, checkpoints)
    with open_engine(checkpoint, dtype="bfloat16", enforce_eager=True) as llm:
        outputs = generate(llm, [prompt(n, seed=n) for n in (1900, 40, 1500)], 5)
    assert merged
    check(outputs, checkpoint, MODEL.head_size, "kivi_k4v4", "bfloat16")
