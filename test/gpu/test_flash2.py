"""Prefill by FlashAttention 2, which vLLM takes where there is no Hopper GPU: here it is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from engines import check, open_engine
from inprocess import generate
from models import TinyModel, write_checkpoint
from support import prompt

from vllm_kivi.backend.gpu import prefill

MODEL = TinyModel(128, 2, 4, layers=3)


@pytest.mark.skipif(
    importlib.util.find_spec("vllm.vllm_flash_attn._vllm_fa2_C") is None, reason="this build of vLLM has none"
)
@pytest.mark.parametrize("slab_bytes", [prefill.SLAB_BYTES, 1], ids=["one-piece", "pieces"])
def test_logits(slab_bytes: int, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, prefix hits, and decode after them, as FlashAttention 3 gives them."""
    monkeypatch.setattr(prefill, "SLAB_BYTES", slab_bytes)
    versions = []
    monkeypatch.setattr(
        prefill, "flash_version", lambda size, of=prefill.flash_version: versions.append(of(size)) or versions[-1]
    )
    checkpoint = write_checkpoint(MODEL, checkpoints)
    prompts = [prompt(n, seed=700 + n) for n in (1, 127, 129, 300, 700, 1900)]
    asked = {"flash_attn_version": 2}
    with open_engine(checkpoint, dtype="bfloat16", enforce_eager=True, attention_config=asked) as llm:
        miss, hit = (generate(llm, prompts, 5) for _ in range(2))
    assert set(versions) == {2}
    for outputs in (miss, hit):
        check(outputs, checkpoint, MODEL.head_size, "kivi_k4v4", "bfloat16")
