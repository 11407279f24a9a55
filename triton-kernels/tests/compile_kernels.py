"""Compile every kernel for a GPU architecture on a machine without one; run by test_compile.py in a process of its own.

    python compile_kernels.py 90 k4v4:128:4:bfloat16 ...

Goes through the launchers with CPU tensors, so that what is compiled is what a GPU would be handed; only the launch
itself is left out. Prints one JSON object a kernel:
kernel, shared (bytes), byte_loads (instructions that load single bytes from global memory), registers, local (bytes of
spilled registers a thread).
"""

from __future__ import annotations

# ruff: noqa: E402, I001 -- the interpreter is chosen before triton is imported

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest

conftest.use_repository(interpret=False)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.decode import decode, decode_scratch
from vllm_kivi.kernels.rotate import rotate_heads
from vllm_kivi.kernels.store import store_groups

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and local memory of a kernel's binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [_CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "local": int(found[2])}


def compile_only(arch: int) -> None:
    """Make every launch compile for this architecture, report, and stop there."""
    target = GPUTarget("cuda", arch, 32)
    driver.set_active(
        SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target)
    )  # type: ignore[arg-type]

    def launcher(kernel: JITFunction, grid: Any) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            compiled = kernel.run(*args, grid=grid, warmup=True, **options)
            found = {
                "kernel": kernel.fn.__name__,
                "shared": compiled.metadata.shared,
                "byte_loads": compiled.asm["ptx"].count("ld.global.b8"),
                **resources(compiled.asm["cubin"]),
            }
            print(json.dumps(found), flush=True)

        return launch

    JITFunction.__getitem__ = launcher  # type: ignore[method-assign]


def run(preset: str, head_size: int, ratio: int, dtype: torch.dtype) -> None:
    """Call every launcher once."""
    config = PRESETS[preset]
    layout, heads, rows = config.layout(head_size, 128), 2, 3
    pages = torch.zeros(4, heads, layout.record_bytes, dtype=torch.uint8)
    ring = torch.zeros(2, heads, config.staging_tokens, head_size, dtype=dtype)
    counts = torch.zeros(rows, dtype=torch.int32)
    index = torch.zeros(rows, layout.key_group, dtype=torch.int64)
    query = torch.zeros(rows, heads * ratio, head_size, dtype=dtype)
    fresh = query[:, :heads]
    store_groups(layout, pages, counts, counts, fresh, fresh, config.clipping, index, ring, ring)
    table, scratch = counts[:, None].repeat(1, 4), decode_scratch(layout, rows, heads * ratio, 4, query.device)
    decode(layout, query, query, pages, table, counts, counts, counts, ring, ring, 1.0, scratch, config.rotation)
    rotate_heads(query, query)


if __name__ == "__main__":
    compile_only(int(sys.argv[1]))
    for case in sys.argv[2:]:
        preset, head_size, ratio, dtype = case.split(":")
        run(preset, int(head_size), int(ratio), getattr(torch, dtype))
