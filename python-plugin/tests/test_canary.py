"""The start-up canary: passes with the kernels as they are, stops a worker whose kernels are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES

from vllm_kivi.backend.cpu import canary
from vllm_kivi.backend.cpu.kernels import CpuKernels, cpu_kernels

CASE = CASES[0]


def check(monkeypatch: pytest.MonkeyPatch, **wrong: Any) -> CpuKernels:
    kernels = cpu_kernels(CASE.layout, CASE.ratio, CASE.config().clipping)._replace(**wrong)
    monkeypatch.setattr(canary, "cpu_kernels", lambda *_: kernels)
    return canary.checked_kernels.__wrapped__(CASE.layout, CASE.ratio, CASE.config().clipping, CASE.ring_dtype)


def test_passes_with_the_kernels_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(monkeypatch) == cpu_kernels(CASE.layout, CASE.ratio, CASE.config().clipping)


def test_default_dtype_of_a_loading_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM loads a bfloat16 model with bfloat16 as PyTorch's default dtype."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        check(monkeypatch)
    finally:
        torch.set_default_dtype(torch.float32)


def test_names_the_step_whose_kernel_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu_kernels(CASE.layout, CASE.ratio, CASE.config().clipping)

    def swapped_halves(pages: Any, *rest: Any) -> None:
        right.store_keys(pages, *rest)
        codes = pages[:, :, : CASE.layout.value_codes_offset]
        codes[:] = (codes << 4) | (codes >> 4)

    def next_token(pages: Any, slots: Any, value: Any) -> None:
        right.store_values(pages, slots + 1, value)

    def stale(out: Any, *rest: Any) -> None:
        right.decode(out, *rest)
        out[..., 0] *= 1.1

    with pytest.raises(canary.CanaryError, match=r"KIVI refuses: .*storing and loading keys.*CacheLayout\(head_size="):
        check(monkeypatch, store_keys=swapped_halves)
    with pytest.raises(canary.CanaryError, match="storing and loading values"):
        check(monkeypatch, store_values=next_token)
    with pytest.raises(canary.CanaryError, match="decoding"):
        check(monkeypatch, decode=stale)


def test_a_nan_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(out: Any, *_: Any) -> None:
        out[:] = torch.nan

    with pytest.raises(canary.CanaryError, match="RMS error ratio nan"):
        check(monkeypatch, decode=nan)
