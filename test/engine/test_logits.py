"""Prefill, in one piece and in chunks that end anywhere: every prompt position's logits against the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyModel, write_checkpoint
from oracle import Oracle
from support import centred, check_errors, error_ratio, oracle_for, prompt, prompt_logits, settings_of
from vllm import SamplingParams

LENGTHS = (2, 127, 128, 129, 255, 256, 257, 300)
BF16 = 0.6
"""Allowed in bfloat16, as a part of what quantization itself changes. Two bfloat16 implementations differ by 1 % here
without any quantization; a key that lands on the other side of a rounding edge then moves a whole code."""

CASES = {
    "k4v4-d64-gqa3": (TinyModel(64, 2, 3), "kivi_k4v4", "float32", {}),
    "k2v2-d128-gqa4": (TinyModel(128, 1, 4), "kivi_k2v2", "float32", {"key_window": 0, "value_window": 0}),
    "k2v2-d64-gqa3-both-windows": (TinyModel(64, 2, 3), "kivi_k2v2", "float32", {"key_window": 24, "value_window": 60}),
    "k4v2-d64-gqa8-key-window": (TinyModel(64, 1, 8), "kivi_k4v2", "float32", {"key_window": 40, "value_window": 0}),
    "k4v2-d64-gqa3-value-window": (TinyModel(64, 2, 3), "kivi_k4v2", "float32", {}),
    "k4v4-d64-mha-plain-g64": (
        TinyModel(64, 2, 1),
        "kivi_k4v4",
        "float32",
        {"rotation": False, "key_group": 64},
    ),
    "k4v4-d64-gqa3-bf16": (TinyModel(64, 2, 3), "kivi_k4v4", "bfloat16", {}),
    "k4v2-d128-gqa4-bf16": (TinyModel(128, 1, 4), "kivi_k4v2", "bfloat16", {"key_window": 0, "value_window": 0}),
}


@pytest.mark.parametrize("budget", [1024, 96], ids=["whole", "chunks-of-96"])
@pytest.mark.parametrize("case", CASES)
def test_prompt_logits_equal_the_oracle(case: str, budget: int, checkpoints: Path, engine: Any) -> None:
    model, cache_dtype, dtype, settings = CASES[case]
    checkpoint = write_checkpoint(model, checkpoints)
    oracle, exact = (
        oracle_for(checkpoint, cache_dtype, model.head_size, dtype, **settings),
        Oracle(checkpoint, None, getattr(torch, dtype)),
    )
    described = settings_of(cache_dtype, model.head_size, **settings)
    window = max(described["key_window"], described["value_window"])
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    options = {"additional_config": {"kivi": settings}} if settings else {}
    with engine(checkpoint, kv_cache_dtype=cache_dtype, dtype=dtype, max_num_batched_tokens=budget, **options) as llm:
        # All at once: prefill chunks of some requests share a step with decode of others.
        outputs = llm.generate(
            [{"prompt_token_ids": tokens} for tokens in prompts],
            SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, prompt_logprobs=-1),
            use_tqdm=False,
        )
    errors: list[float] = []
    for tokens, output in zip(prompts, outputs, strict=True):
        want = centred(oracle.logits(tokens)[:-1])
        error = error_ratio(prompt_logits(output), want)
        effect = error_ratio(centred(exact.logits(tokens)[:-1]), want)
        if len(tokens) > window + 129:
            assert effect > 0.01, "the oracle cannot tell a quantized cache from an exact one: the test has no power"
        errors.append(error)
        if dtype != "float32":
            assert error < max(BF16 * effect, 0.02), f"{len(tokens)} tokens: {error} (quantization itself: {effect})"
    if dtype == "float32":
        check_errors(errors)
