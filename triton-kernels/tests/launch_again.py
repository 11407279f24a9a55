"""What a second launch hands to a compiled kernel, without a GPU; run by test_launch.py in a process of its own.

Kernels are compiled for a GPU and launched from CPU tensors, up to the call that would reach the driver.
"""

from __future__ import annotations

# ruff: noqa: I001 -- the interpreter is chosen before triton is imported

from types import SimpleNamespace
from typing import Any

import compile_kernels

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.staging import stage_heads

bound: list[str] = []
"""Kernels that Triton bound the arguments of."""

launched: list[tuple[Any, tuple[int, ...], list[Any]]] = []


def bind(kernel: JITFunction, grid: Any) -> Any:
    def launch(*args: Any, **options: Any) -> Any:
        bound.append(kernel.fn.__name__)
        return kernel.run(*args, grid=grid, warmup=True, **options)

    return launch


def expected(self: Launcher, grid: Any, tensors: Any, *numbers: float) -> None:
    """Launches, and compares with Triton's own binding of the same arguments."""
    before = len(launched)
    launch(self, grid, tensors, *numbers)
    if len(launched) == before:
        return
    kernel: Any = self._kernel
    *_, binder = kernel.device_caches[0]
    arguments, _, _ = binder(*tensors, *numbers, **self._constants)
    plain = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments.values()]
    compiled = kernel.run(*tensors, *numbers, grid=grid, warmup=True, **self._constants)
    assert launched[-1] == (compiled, grid, plain), kernel.fn.__name__


def stage(first: int) -> None:
    """Keys and values that begin at an element of their memory."""
    out, x = (torch.zeros(2, 4096, dtype=torch.bfloat16)[:, first : first + 2048].view(2, 4, 8, 64) for _ in range(2))
    stage_heads((out[0], out[1]), (x[0], x[1]), True)


if __name__ == "__main__":
    target = GPUTarget("cuda", 90, 32)
    driver.set_active(
        SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target)
    )  # type: ignore[arg-type]
    JITFunction.__getitem__ = bind  # type: ignore[method-assign]
    CompiledKernel.__getitem__ = lambda self, grid: lambda *args: launched.append((self, grid, list(args)))  # type: ignore[method-assign]
    launch = Launcher.__call__
    Launcher.__call__ = expected  # type: ignore[method-assign]

    compile_kernels.run("k4v4", 64, 2, torch.bfloat16)
    kinds = set(bound)
    bound.clear()
    launched.clear()
    compile_kernels.run("k4v4", 64, 2, torch.bfloat16)
    assert set(bound) == {"_plan_kernel"}, bound  # once a step, not in every layer
    assert {kernel.name for kernel, *_ in launched} == kinds - {"_plan_kernel"}

    stage(0)
    for first, again in ((1, True), (8, False), (4, True), (16, False)):  # elements of two bytes
        bound.clear()
        stage(first)
        assert bool(bound) == again, f"from element {first}: {bound}"
    print(len(launched))
