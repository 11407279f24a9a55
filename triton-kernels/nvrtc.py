"""CUDA C++ compiled at run time by NVRTC, which PyTorch brings, with the driver's bindings (``cuda-bindings``)."""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from triton.runtime.cache import get_cache_manager

from vllm_kivi.kernels.cuda_launch import KernelError

logger = logging.getLogger("vllm.vllm_kivi")


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


def compile_for(source: Path, architecture: str, macros: dict[str, int]) -> bytes:
    """The binary for an architecture ("sm_90"); needs no GPU. Kept in Triton's cache: it takes a second or two.

    Args:
        source: a file; the ``.cuh`` beside it may be included.

    Raises:
        KernelError: with the compiler's words.
    """
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture={architecture}", "--std=c++17", *(f"-D{k}={v}" for k, v in macros.items())]
    sources = {path.name: path.read_bytes() for path in (source, *sorted(source.parent.glob("*.cuh")))}
    key = hashlib.sha256(repr((nvrtc.nvrtcVersion(), options, sources)).encode()).hexdigest()
    cache, file = get_cache_manager(key), source.with_suffix(".cubin").name
    kept = cache.get_file(file)
    if kept is not None:
        return Path(kept).read_bytes()
    binary = _compile(options, sources)
    cache.put(binary, file)
    return binary


def load(binary: bytes, name: str, shared: int, device: int) -> int:
    """CUfunction of a kernel on a device, in PyTorch's context there.

    Args:
        shared: bytes of dynamic shared memory that a block may take.

    Raises:
        KernelError: the driver refuses.
    """
    from cuda.bindings.driver import CUfunction_attribute

    with torch.cuda.device(device):
        kernel = _driver("cuModuleGetFunction", _driver("cuModuleLoadData", binary), name.encode())
        most_shared = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _driver("cuFuncSetAttribute", kernel, most_shared, shared)
    return int(kernel)


def _compile(options: list[str], sources: dict[str, bytes]) -> bytes:
    """The first of the sources, which includes the others."""
    from cuda.bindings import nvrtc

    encoded = [option.encode() for option in options]
    (name, source), *headers = sources.items()
    texts, names = [text for _, text in headers], [header.encode() for header, _ in headers]
    program = _nvrtc("nvrtcCreateProgram", source, name.encode(), len(headers), texts, names)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _nvrtc("nvrtcGetProgramLogSize", program)
            _nvrtc("nvrtcGetProgramLog", program, log)
            raise KernelError(f"KIVI: {name} does not compile with {options}: {log.decode().strip()}")
        binary = b" " * _nvrtc("nvrtcGetCUBINSize", program)
        _nvrtc("nvrtcGetCUBIN", program, binary)
        return binary
    finally:
        _nvrtc("nvrtcDestroyProgram", program)


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
