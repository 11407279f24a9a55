"""Compile every kernel for a GPU architecture on a machine without one; run by test_compile.py in a process of its own.

    python compile_kernels.py 90 k4v4:128:4:bfloat16 ...

Goes through the launchers with CPU tensors, so that what is compiled is what a GPU would be handed; only the launch
itself is left out. Prints one JSON object a kernel:
case, kernel, shared (bytes), byte_loads (instructions that load single bytes from global memory), narrow (wgmma
instructions of 32 columns), registers, local (bytes of spilled registers a thread).
"""

from __future__ import annotations

# ruff: noqa: E402, I001 -- the interpreter is chosen before triton is imported

import json
import sys
from types import SimpleNamespace
from typing import Any

import conftest

conftest.use_repository(interpret=False)

import torch
from binaries import resources
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.append import append_tokens
from vllm_kivi.kernels.decode import closes
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.few import attend_few, new_scratch
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.many import attend_many, store_many
from vllm_kivi.kernels.rotation import rotation_matrix
from vllm_kivi.kernels.slab import fill_slab
from vllm_kivi.kernels.staging import stage_newest
from vllm_kivi.kernels.tasks import Plan, plan_tasks
from vllm_kivi.layout import staged_bytes


DRAFTS = 5


def compile_only(arch: int) -> None:
    """Make every launch compile for this architecture, report, and stop there."""
    target = GPUTarget("cuda", arch, 32)
    driver.set_active(
        SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target)
    )  # type: ignore[arg-type]

    def launcher(kernel: JITFunction, grid: Any) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            compiled = kernel.run(*args, grid=grid, warmup=True, **options)
            binary = resources(compiled.asm["cubin"])
            found = {
                "case": case,
                "kernel": kernel.fn.__name__,
                "shared": compiled.metadata.shared,
                "byte_loads": compiled.asm["ptx"].count("ld.global.b8"),
                "narrow": compiled.asm["ptx"].count(".m64n32k"),
                "registers": binary.registers,
                "local": binary.stack,
            }
            print(json.dumps(found), flush=True)

        return launch

    JITFunction.__getitem__ = launcher  # type: ignore[method-assign]


def run(preset: str, head_size: int, ratio: int, dtype: torch.dtype) -> None:
    """Call every launcher once."""
    config = PRESETS[preset]
    layout, heads, rows = config.layout(head_size, 128), 2, 3
    windows = windows_of(config)
    pages = torch.zeros(4, heads, layout.record_bytes, dtype=torch.uint8)
    ring_key, ring_value = (
        torch.zeros(2, heads, tokens, staged_bytes(head_size), dtype=torch.uint8)
        for tokens in (config.key_staging_tokens(), config.value_staging_tokens())
    )
    counts = torch.zeros(rows, dtype=torch.int32)
    batch = Batch(torch.zeros(rows + 1, dtype=torch.int32), counts, counts[:, None].repeat(1, 4), counts, counts)
    slot_mapping = counts.long()
    query = torch.zeros(rows, heads * ratio, head_size, dtype=dtype)
    rotated = query.float()
    fresh = query[:, :heads]
    plan = Plan(torch.zeros(9, 4, dtype=torch.int32), counts[:1])
    for planned in (None, plan):
        append_tokens(
            layout, pages, batch, slot_mapping, query, fresh, fresh, rotated, ring_key, ring_value,
            config.clipping, config.rotation, planned,
        )  # fmt: skip
    scratch = new_scratch(layout, rows, 5 * rows, heads, heads * ratio, query.device)
    for queries in (1, DRAFTS + 1):
        attend_few(
            layout, windows, query, rotated, pages, batch, ring_key, ring_value, 1.0, scratch, 4, queries, dtype,
            config.rotation, None,
        )  # fmt: skip
    plan_tasks(layout, windows, plan, batch, slot_mapping, heads, 8, 1 if closes(layout) else None)
    rings, staged = (ring_key, ring_value), (fresh, fresh)
    store_many(layout, pages, batch, slot_mapping, staged, staged, rings, config.clipping, config.rotation)
    attend_many(layout, windows, query, query, rotated, pages, batch, rings, staged, 1.0, config.rotation)
    slab = torch.zeros(2, 1, layout.key_group, heads, head_size, dtype=dtype)
    rotation = rotation_matrix(head_size, query.device) if config.rotation else None
    units = torch.zeros(3, 1, dtype=torch.int32)
    fill_slab(layout, (slab[0], slab[1]), units, rotation, pages, batch, rings, staged)
    stage_newest(rings, batch, staged)


if __name__ == "__main__":
    compile_only(int(sys.argv[1]))
    for case in sys.argv[2:]:
        preset, head_size, ratio, dtype = case.split(":")
        run(preset, int(head_size), int(ratio), getattr(torch, dtype))
