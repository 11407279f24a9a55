"""Engines on a GPU, and what their answers are held against: the dense oracle, which PyTorch runs on the same GPU.

A model of 16 bits differs from another implementation of itself by 1 % here without any quantization, and a key that
lands on the other side of a rounding edge then moves a whole code; so the allowance is a part of what quantization
does, as for bfloat16 on the CPU. A matrix product depends on the size of its batch in the last bits, so where tokens
are compared, two that the model finds nearly equally likely may take each other's place.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from inprocess import open_llm
from oracle import Oracle
from support import error_ratio, generated_logits, settings_of, whole

ALLOWED = 0.6
"""Error of the logits, as a part of what quantization itself changes."""

NOISE = 0.05
"""RMS difference of two runs' logits, as a part of their spread: what batches of other sizes make of 16 bits."""


@contextmanager
def open_engine(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    """A small engine with a k4v4 cache; arguments as LLM's."""
    defaults: dict[str, Any] = {
        "kv_cache_dtype": "kivi_k4v4",
        "max_model_len": 2048,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 600,
        "kv_cache_memory_bytes": 1 << 30,
        "gpu_memory_utilization": 0.05,  # what vLLM wants free; several tests may run side by side
        "dtype": "float16",
    }
    try:
        with open_llm(checkpoint, **{**defaults, **arguments}) as llm:
            yield llm
    finally:
        torch.cuda.empty_cache()


def oracles(
    checkpoint: Path, head_size: int, preset: str, dtype: str, exact_layers: Container[int] = (), **settings: Any
) -> tuple[Oracle, Oracle]:
    """Of the format with its settings, and of an exact cache."""
    rounded = {**settings_of(preset, head_size, **settings), "eight_bits": True}
    oracle, exact = (
        Oracle(checkpoint, chosen, getattr(torch, dtype), exact_layers, "cuda") for chosen in (rounded, None)
    )
    return oracle, exact


def check(
    outputs: list[Any],
    checkpoint: Path,
    head_size: int,
    preset: str,
    dtype: str,
    exact_layers: Container[int] = (),
    **settings: Any,
) -> None:
    """Every answer's logits against the oracle's."""
    check_by(*oracles(checkpoint, head_size, preset, dtype, exact_layers, **settings), outputs)


def check_by(oracle: Oracle, exact: Oracle, outputs: list[Any]) -> None:
    """Every answer's logits against those of :func:`oracles`."""
    for output in outputs:
        length = len(output.prompt_token_ids)
        want = oracle.logits(whole(output)[:-1])[length - 1 :]
        effect = error_ratio(exact.logits(whole(output)[:-1])[length - 1 :], want)
        error = error_ratio(generated_logits(output), want)
        assert error < max(ALLOWED * effect, 0.02), f"{length} tokens: {error} (quantization itself: {effect})"


def check_same_tokens(outputs: list[Any], others: list[Any]) -> None:
    """The same answers, up to where the logits' noise lets another token win."""
    for output, other in zip(outputs, others, strict=True):
        pairs = zip(output.outputs[0].token_ids, other.outputs[0].token_ids, strict=True)
        at = next((at for at, (token, instead) in enumerate(pairs) if token != instead), None)
        if at is None:
            continue
        logits, instead_of = generated_logits(output)[: at + 1], generated_logits(other)[: at + 1]
        apart = ((logits - instead_of).pow(2).mean(1).sqrt() / logits.std(1)).max().item()
        assert apart < NOISE, f"{len(output.prompt_token_ids)} tokens, answer's {at}: logits differ by {apart:.3f}"
