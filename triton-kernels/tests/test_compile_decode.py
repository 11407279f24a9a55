"""decode.cu compiles for every supported architecture without a GPU, and spills nothing."""

from __future__ import annotations

import pytest
from binaries import resources

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.attend import min_groups_of_a_split, windows_of
from vllm_kivi.kernels.decode import compile_for, compiler_works, macros, takes


@pytest.mark.skipif(not compiler_works(), reason="no NVRTC (nvidia-cuda-nvrtc) in this environment")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize(
    ("preset", "head_size", "ratio"),
    [("k4v4", 128, 4), ("k4v4", 64, 1), ("k4v4", 96, 3), ("k4v2", 128, 8), ("k2v2", 128, 5)],
    ids=str,
)
def test_compiles(preset: str, head_size: int, ratio: int, architecture: str) -> None:
    config = PRESETS[preset]
    layout, windows = config.layout(head_size, 128), windows_of(config)
    assert takes(layout, windows, ratio)
    binary = compile_for(architecture, macros(layout, windows, ratio, min_groups_of_a_split(layout)))
    kernel, registers, stack, shared, local = resources(binary)
    assert kernel == "kivi_decode"
    assert stack == local == 0
    assert registers <= 168, "three blocks of 128 threads no longer fit a multiprocessor"
    assert shared <= 48 * 1024


@pytest.mark.parametrize(
    ("preset", "head_size", "ratio"), [("k4v4", 80, 1), ("k4v4", 256, 4), ("k2v2", 96, 4), ("k4v4", 128, 16)]
)
def test_what_it_does_not_take(preset: str, head_size: int, ratio: int) -> None:
    config = PRESETS[preset]
    assert not takes(config.layout(head_size, 128), windows_of(config), ratio)
