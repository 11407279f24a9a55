"""close.cuh compiled by the machine's C++ compiler: the arithmetic that closes groups in decode.cu, without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vllm_kivi import reference
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.attend import Windows, windows_of
from vllm_kivi.kernels.decode import Blocks, closes, macros
from vllm_kivi.layout import CacheLayout

_COMPILER = shutil.which("c++")
_RINGS = {"exact": (128, 384), "turned": (136, 5 * 128), "window": (192, 128), "long": (256, 3 * 128)}
"""Tokens of a ring, and the position at which the group begins."""


def _keys(kind: str, tokens: int, head_size: int) -> torch.Tensor:
    """float32 [tokens, D]: channels of very different sizes, and what is hard about each kind."""
    generator = torch.Generator().manual_seed(tokens + head_size)
    x = torch.randn(tokens, head_size, generator=generator)
    x *= torch.exp2(torch.randint(-20, 14, (head_size,), generator=generator).float())
    if kind == "constant":
        x[:, ::2] = 3.0
    elif kind == "tiny":
        x *= 1e-7
    elif kind == "huge":
        x *= 1e4
    elif kind == "far":
        x = x * 1e-3 + 100.0
    elif kind == "zero":
        x[:] = 0.0
    return x


@pytest.mark.skipif(_COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("copying", [True, False], ids=["copied", "ring"])
@pytest.mark.parametrize("warps", [2, 4, 8])
@pytest.mark.parametrize(
    ("preset", "head_size", "block_size"),
    [("k4v4", 64, 128), ("k4v4", 96, 128), ("k4v4", 128, 128), ("k4v4", 128, 256), ("k4v2", 128, 128)],
)
def test_bytes_are_those_of_the_reference(
    preset: str, head_size: int, block_size: int, warps: int, copying: bool, tmp_path: Path
) -> None:
    layout = PRESETS[preset].layout(head_size, block_size)
    assert closes(layout)
    close_group = _compiled(layout, windows_of(PRESETS[preset]), warps, copying, tmp_path)
    for kind in ("plain", "constant", "tiny", "huge", "far", "zero"):
        for name, (ring_tokens, first) in _RINGS.items():
            ring = reference.stage_bytes(reference.admit(_keys(kind, ring_tokens, head_size)))
            number = first // layout.key_group % layout.key_groups
            tokens = (first + torch.arange(layout.key_group)) % ring_tokens
            expected = torch.zeros(1, 1, layout.record_bytes, dtype=torch.uint8)
            key = reference.unstage(ring)[tokens][None, :, None, :]
            reference.store_keys(layout, expected, torch.tensor([0]), torch.tensor([number]), key, False)
            got = torch.zeros_like(expected)
            close_group(got.data_ptr(), number, ring.data_ptr(), ring_tokens, first)
            assert torch.equal(got, expected), (kind, name, int((got != expected).sum()))


def _compiled(
    layout: CacheLayout, windows: Windows, warps: int, copying: bool, folder: Path
) -> Callable[[int, int, int, int, int], None]:
    sizes = macros(layout, windows, 4, False, torch.bfloat16, Blocks(warps, 1), copying)
    library = folder / "close.so"
    defined = [f"-DKIVI_{name}={value}" for name, value in sizes.items()]
    source = Path(__file__).parent / "host" / "close.cpp"
    flags = ["-std=c++17", "-O1", "-frounding-math", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    assert _COMPILER is not None
    subprocess.run([_COMPILER, *flags, *defined, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).close_group_of
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    function.restype = None
    return function  # type: ignore[no-any-return]
