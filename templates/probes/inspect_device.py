"""Prints what PyTorch and the NVIDIA driver say of each other and of the GPUs, as one JSON object.

Run with the environment's own interpreter. The answer is the line that starts with KIVI_DEVICE; PyTorch may print
around it. Of the driver it asks the library itself, so that a driver too old for PyTorch has an answer too.
"""

from __future__ import annotations

import ctypes
import json
import logging
from typing import Any


def inspect_driver() -> dict[str, Any] | None:
    """The newest CUDA that the driver supports (13000 is 13.0) and the result of cuInit; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    return {"cuda": version.value, "init": library.cuInit(0)}


def inspect_gpus(torch: Any) -> list[dict[str, Any]]:
    """The visible GPUs, in CUDA's order; free memory as vLLM measures it at start."""
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = list(torch.cuda.get_device_capability(index))
        name = torch.cuda.get_device_name(index)
        gpus.append({"name": name, "capability": capability, "free_bytes": free, "total_bytes": total})
    return gpus


class Messages(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def inspect_compiler() -> dict[str, Any]:
    """Whether the plugin can load NVRTC, and its words where it cannot."""
    try:
        from vllm_kivi.kernels.nvrtc import compiler_works
    except ImportError as error:
        return {"works": False, "message": f"the plugin's decode kernel cannot be imported: {error}"}
    messages = Messages()
    logger = logging.getLogger("vllm.vllm_kivi")
    logger.addHandler(messages)
    logger.propagate = False
    return {"works": compiler_works(), "message": "\n".join(messages.lines)}


def inspect_device() -> dict[str, Any]:
    """All of it; without a GPU that PyTorch can use, ``gpus`` is empty and the compiler was not asked for."""
    compiler = {"works": False, "message": "not asked for without a GPU"}
    answer: dict[str, Any] = {"driver": inspect_driver(), "gpus": [], "compiler": compiler, "torch_error": None}
    try:
        import torch
    except Exception as error:
        return {**answer, "torch": None, "torch_error": f"{type(error).__name__}: {error}"}
    answer["torch"] = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    # Without a driver that starts there is nothing to learn from PyTorch but a warning.
    if torch.version.cuda is None or answer["driver"] is None or answer["driver"]["init"] == NO_DEVICE:
        return answer
    try:
        torch.cuda.init()
        answer["gpus"] = inspect_gpus(torch)
    except (RuntimeError, AssertionError) as error:
        answer["torch_error"] = str(error)
        return answer
    answer["compiler"] = inspect_compiler()
    return answer


NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE"""


if __name__ == "__main__":
    print("KIVI_DEVICE " + json.dumps(inspect_device()), flush=True)
