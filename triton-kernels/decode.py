"""Decode on NVIDIA GPUs: decode.cu, compiled by NVRTC for a layout and launched like attend.py's kernel of splits.

PyTorch brings NVRTC and the driver's bindings (``cuda-bindings``). What the kernel does not take (rows of several
queries, head sizes and windows below), attend.py's Triton kernel does.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vllm_kivi.layout import CacheLayout, staged_bytes

if TYPE_CHECKING:
    from vllm_kivi.kernels.attend import Windows
    from vllm_kivi.kernels.helpers import Batch

logger = logging.getLogger("vllm.vllm_kivi")

_SOURCE = Path(__file__).with_name("decode.cu")
_THREADS = 128
_MOST_QUERY_HEADS = 8
"""Of a KV head: one tile of the tensor core instruction. More would spill registers."""


class KernelError(RuntimeError):
    """The kernel did not compile or launch."""


def takes(layout: CacheLayout, windows: Windows, ratio: int) -> bool:
    """Whether decode.cu is built for a layout, windows, and query heads of a KV head; see its static asserts."""
    words = 32 if layout.key_bits == 4 else 64
    return (
        layout.head_size % words == 0
        and layout.head_size <= 128
        and layout.value_code_rows % 16 == 0
        and layout.value_group % 16 == 0
        and windows.value_residual % 16 == 0
        and windows.value_window <= windows.key_window
        and ratio <= _MOST_QUERY_HEADS
        and compiler_works()
    )


@functools.cache
def compiler_works() -> bool:
    """Whether NVRTC can be loaded; says so once where it cannot."""
    try:
        from cuda.bindings import nvrtc

        _called("nvrtcVersion", nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError) as error:
        logger.warning("KIVI decodes with its slower Triton kernel, because NVRTC cannot be loaded: %s", error)
        return False
    return True


def decode_splits(
    layout: CacheLayout,
    windows: Windows,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    rings: tuple[torch.Tensor, torch.Tensor],
    scale_log2: float,
    scratch: tuple[torch.Tensor, torch.Tensor],
    min_groups: int,
) -> None:
    """Rows of one query; arguments and result as :func:`vllm_kivi.kernels.attend.attend_splits`.

    Args:
        query: float32 [rows, Hq, D], contiguous.
        scale_log2: of the scores, times log2(e).
        min_groups: least key groups of a split.

    Raises:
        KernelError: the kernel does not compile or launch.
    """
    out, lse = scratch
    heads, splits = pages.shape[1], lse.shape[2] - 1
    ring_key, ring_value = rings
    kernel = _compiled(layout, windows, query.shape[1] // heads, min_groups, query.device.index)
    tensors = (
        out, lse, query, pages, batch.query_start, batch.seq_lens, batch.block_table, batch.slots, batch.readable_from,
        ring_key, ring_value,
    )  # fmt: skip
    sizes = (
        splits, pages.stride(0), batch.block_table.stride(0), ring_key.stride(0), ring_value.stride(0),
        ring_key.shape[2], ring_value.shape[2],
    )  # fmt: skip
    values = (*(x.data_ptr() for x in tensors), scale_log2, *sizes)
    types = (*(ctypes.c_void_p,) * len(tensors), ctypes.c_float, *(ctypes.c_int,) * len(sizes))
    stream = torch.cuda.current_stream(query.device).cuda_stream
    grid = heads, 1 + splits, batch.seq_lens.shape[0]
    _driver("cuLaunchKernel", kernel, *grid, _THREADS, 1, 1, 0, stream, (values, types), 0)


def macros(layout: CacheLayout, windows: Windows, ratio: int, min_groups: int) -> dict[str, int]:
    """What decode.cu is compiled with, without the prefix."""
    return {
        "D": layout.head_size,
        "G": layout.key_group,
        "T": layout.block_size,
        "KB": layout.key_bits,
        "VB": layout.value_bits,
        "VGROUPS": layout.channel_groups,
        "RATIO": ratio,
        "KEY_CODES": layout.key_codes_offset,
        "VALUE_CODES": layout.value_codes_offset,
        "KEY_ZEROS": layout.key_zeros_offset,
        "VALUE_ZEROS": layout.value_zeros_offset,
        "KEY_SCALES": layout.key_scales_offset,
        "VALUE_SCALES": layout.value_scales_offset,
        "RECORD": layout.record_bytes,
        "STAGED": staged_bytes(layout.head_size),
        "KEY_WINDOW": windows.key_window,
        "VALUE_WINDOW": windows.value_window,
        "VALUE_RESIDUAL": windows.value_residual,
        "MIN_GROUPS": min_groups,
    }


def compile_for(architecture: str, sizes: dict[str, int]) -> bytes:
    """The binary for an architecture ("sm_90"); needs no GPU.

    Raises:
        KernelError: with the compiler's words.
    """
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture={architecture}", "--std=c++17", *(f"-DKIVI_{k}={v}" for k, v in sizes.items())]
    encoded = [option.encode() for option in options]
    program = _nvrtc("nvrtcCreateProgram", _SOURCE.read_bytes(), _SOURCE.name.encode(), 0, None, None)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _nvrtc("nvrtcGetProgramLogSize", program)
            _nvrtc("nvrtcGetProgramLog", program, log)
            raise KernelError(f"KIVI: {_SOURCE.name} does not compile for {architecture}: {log.decode().strip()}")
        binary = b" " * _nvrtc("nvrtcGetCUBINSize", program)
        _nvrtc("nvrtcGetCUBIN", program, binary)
        return binary
    finally:
        _nvrtc("nvrtcDestroyProgram", program)


@functools.cache
def _compiled(layout: CacheLayout, windows: Windows, ratio: int, min_groups: int, device: int) -> Any:
    """The kernel on a device, in PyTorch's context there."""
    major, minor = torch.cuda.get_device_capability(device)
    binary = compile_for(f"sm_{major}{minor}", macros(layout, windows, ratio, min_groups))
    with torch.cuda.device(device):
        module = _driver("cuModuleLoadData", binary)
        return _driver("cuModuleGetFunction", module, b"kivi_decode")


def _nvrtc(name: str, *args: Any) -> Any:
    from cuda.bindings import nvrtc

    return _called(name, getattr(nvrtc, name)(*args))


def _driver(name: str, *args: Any) -> Any:
    from cuda.bindings import driver

    return _called(name, getattr(driver, name)(*args))


def _called(name: str, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status) != 0:
        raise KernelError(f"KIVI: {name} failed: {status!r}")
    return values[0] if values else None
