"""Launching a Triton kernel again without finding out again how it is compiled.

Triton's own launch binds the arguments, works out what each is specialized to and has the driver look at every pointer:
20 to 50 us on the host, for each kernel of each layer of a step that is no CUDA graph (prompts), and with few tokens
the GPU waits. From one layer to the next only addresses change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from triton.compiler.compiler import CompiledKernel
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vllm_kivi.kernels.cuda_launch import CudaLaunch, Grid, launched_otherwise

_ALIGNMENT = 16
"""Of addresses: for one that is no multiple, Triton compiles anew."""

_INT32 = 1 << 31

_SCRATCH = "pointer", "pointer"
"""Parameters that Triton adds to each kernel, null where it wants no scratch (which ours do not)."""


class Launcher:
    """A kernel with its constants, kept (``functools.cache``) for each shape of a layer.

    Triton's launch hooks see only the first launch of each shape.

    Args:
        kernel: of ``triton.jit``; its arguments are tensors, then numbers, then constexprs.
        tensors: how many of its arguments are tensors.
        constants: constexprs, and options such as ``num_warps``, by name.
    """

    def __init__(self, kernel: Any, tensors: int, **constants: Any) -> None:
        self._kernel, self._constants = kernel, constants
        self._again: dict[tuple[Any, ...], Callable[[Grid, int, list[Any]], None]] = {}
        params = kernel.params if isinstance(kernel, JITFunction) else []  # none of Triton's interpreter
        varying = [param for param in params if not param.is_constexpr]
        assert params[: len(varying)] == varying, "a constexpr stands before another argument"
        self._names = [param.name for param in varying]
        self._aligned = [
            index
            for index, param in enumerate(varying[:tensors])
            if not (param.do_not_specialize or param.do_not_specialize_on_alignment)
        ]
        numbers = varying[tensors:]
        self._special = [index for index, param in enumerate(numbers) if not param.do_not_specialize]
        self._plain = [index for index, param in enumerate(numbers) if param.do_not_specialize]

    def __call__(self, grid: Grid, tensors: tuple[torch.Tensor | None, ...], *numbers: float) -> None:
        """Launch.

        Args:
            tensors, numbers: in the kernel's order; None for a tensor that it does without, which is not the first.
        """
        assert tensors[0] is not None
        device = tensors[0].get_device()
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        key = (
            device,
            *[None if tensor is None else tensor.dtype for tensor in tensors],
            *[numbers[index] for index in self._special],
        )
        launch = self._again.get(key)
        if launch is not None and self._fits(addresses, numbers):
            launch(grid, driver.active.get_current_stream(device), [*addresses, *numbers])
            return
        launched_otherwise()
        compiled = self._kernel[grid](*tensors, *numbers, **self._constants)
        if isinstance(compiled, CompiledKernel) and self._fits(addresses, numbers):
            self._again[key] = _direct(compiled, self._names)

    def _fits(self, addresses: list[int], numbers: tuple[float, ...]) -> bool:
        """Whether the kernel that was compiled for aligned addresses and 32-bit numbers is meant."""
        bits = 0
        for index in self._aligned:
            bits |= addresses[index]
        for index in self._plain:
            if not -_INT32 <= numbers[index] < _INT32:
                return False
        return bits % _ALIGNMENT == 0


def _direct(compiled: CompiledKernel, names: list[str]) -> Callable[[Grid, int, list[Any]], None]:
    """Launches on a grid and a stream, from the values of the arguments of these names."""
    metadata: Any = compiled.metadata
    special = metadata.num_ctas - 1, metadata.launch_cooperative_grid
    assert not any((*special, metadata.global_scratch_size, metadata.profile_scratch_size)), metadata
    types = [compiled.src.signature[name] for name in names]
    kept = operator.itemgetter(*[i for i, each in enumerate(types) if each != "constexpr"])  # others: in the kernel
    parameters = ["pointer" if each.startswith("*") else each for each in types if each != "constexpr"]
    launch = CudaLaunch(
        compiled.function, [*parameters, *_SCRATCH], 32 * metadata.num_warps, metadata.shared, metadata.launch_pdl
    )

    def again(grid: Grid, stream: int, values: list[Any]) -> None:
        launch(grid, stream, (*kept(values), 0, 0))

    return again
