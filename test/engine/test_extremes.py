"""A request whose hidden states are no numbers, in one batch and on one prefix with requests that are well."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from inprocess import generate, runner_of
from models import TinyModel, write_checkpoint
from safetensors.torch import load_file, save_file
from support import check_generated, oracle_for, prompt

MODEL = TinyModel(64, 2, 3)
BROKEN = {310: float("nan"), 311: float("inf"), 312: 3e38}
"""Tokens whose embedding is that number throughout."""


@pytest.fixture(scope="module")
def broken(checkpoints: Path) -> Path:
    folder = checkpoints / "broken"
    shutil.copytree(write_checkpoint(MODEL, checkpoints), folder)
    weights = load_file(folder / "model.safetensors")
    for token, number in BROKEN.items():
        weights["model.embed_tokens.weight"][token] = number
        weights["lm_head.weight"][token] = 0  # never the likeliest, so that only those get it whose prompt has it
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def well(length: int, seed: int) -> list[int]:
    """A prompt without a broken token."""
    return [token % min(BROKEN) for token in prompt(length, seed)]


def test_it_stays_with_the_request(broken: Path, engine: Any) -> None:
    """Its neighbour in the batch, those that hit the blocks before a broken token, and who gets such a request's slot
    and blocks after it answer as the reference does. The few blocks of the cache are used again."""
    oracle = oracle_for(broken, "kivi_k4v4", MODEL.head_size)
    with engine(broken, kv_cache_dtype="kivi_k4v4", max_num_seqs=4, num_gpu_blocks_override=24) as llm:
        rings = [layer.impl.ring for layer in runner_of(llm).compilation_config.static_forward_context.values()]
        prefixes = [well(150, seed=900 + token) for token in BROKEN]
        ill = [[*shared, token, *well(200, seed=token)] for shared, token in zip(prefixes, BROKEN, strict=True)]
        check_generated(generate(llm, [well(127, seed=920), *ill], 140)[:1], oracle)
        heirs = generate(llm, [*([*shared, *well(30, seed=990)] for shared in prefixes), well(260, seed=991)], 20)
        hits = [heir.num_cached_tokens for heir in heirs]
        assert hits == [128, 128, 128, 0], "the first heirs did not hit what the requests left"
        check_generated(heirs, oracle)
        assert all(torch.isfinite(part).all() for ring in rings for part in (ring.key, ring.value))
