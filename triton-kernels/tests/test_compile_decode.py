"""decode.cu compiles for every supported architecture without a GPU, and spills nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from binaries import resources

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels import decode, nvrtc
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.cuda_launch import KernelError
from vllm_kivi.kernels.decode import blocks_of, compile_for, copies_ahead, macros, takes
from vllm_kivi.kernels.nvrtc import compiler_works


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
    copying = copies_ahead(layout, architecture)
    assert copying == (architecture in ("sm_90", "sm_100"))
    for blocks in {blocks_of(layout, pairs, 100, copying) for pairs in (1, 200, 1000, 2000)}:
        threads = 32 * blocks.warps * blocks.resident
        sizes = macros(layout, windows, ratio, config.rotation, torch.bfloat16, blocks, copying)
        binary = compile_for(architecture, sizes)
        kernel, registers, stack, shared, local = resources(binary)
        assert kernel == "kivi_decode"
        assert local == 0, blocks
        assert stack <= 64, f"registers spill inside the loop over blocks: {blocks}"
        assert registers * threads <= 1 << 16, f"the blocks no longer fit a multiprocessor: {blocks}"
        assert shared <= 1024, "shared memory is asked for at launch"
        assert sizes["SHARED"] * blocks.resident <= (225 if copying else 96) * 1024, blocks


@pytest.mark.skipif(not compiler_works(), reason="no NVRTC (nvidia-cuda-nvrtc) in this environment")
def test_is_compiled_once_and_anew_where_anything_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled: list[str] = []
    compile_sources = nvrtc._compile
    monkeypatch.setattr(
        nvrtc, "_compile", lambda options, sources: compiled.append(options[0]) or compile_sources(options, sources)
    )
    config = PRESETS["k4v4"]
    layout, windows = config.layout(128, 128), windows_of(config)
    sizes = macros(layout, windows, 4, True, torch.bfloat16, blocks_of(layout, 1, 100, True), True)
    first = compile_for("sm_90", sizes)
    assert compile_for("sm_90", sizes) == first
    assert len(compiled) == 1
    assert compile_for("sm_90", {**sizes, "ROTATE": 0}) != first
    changed = shutil.copytree(decode._SOURCE.parent, tmp_path / "cuda")
    (changed / "sizes.cuh").write_text((changed / "sizes.cuh").read_text() + "\n// changed\n")
    monkeypatch.setattr(decode, "_SOURCE", changed / decode._SOURCE.name)
    compile_for("sm_90", sizes)
    assert len(compiled) == 3


@pytest.mark.skipif(not compiler_works(), reason="no NVRTC (nvidia-cuda-nvrtc) in this environment")
def test_what_does_not_compile_says_why_and_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        with pytest.raises(KernelError, match=r"decode\.cu does not compile with .*sm_90.*error"):
            compile_for("sm_90", {"SHARED": 0})


@pytest.mark.parametrize(
    ("preset", "head_size", "ratio"), [("k4v4", 80, 1), ("k4v4", 256, 4), ("k2v2", 96, 4), ("k4v4", 128, 16)]
)
def test_what_it_does_not_take(preset: str, head_size: int, ratio: int) -> None:
    config = PRESETS[preset]
    assert not takes(config.layout(head_size, 128), windows_of(config), ratio)
