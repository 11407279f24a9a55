"""Launching a Triton kernel again without finding out again how it is compiled.

Triton's own launch binds the arguments, works out what each is specialized to and has the driver look at every pointer:
10 to 30 us on the host, for each kernel of each layer of a step that is no CUDA graph (prompts), and with few tokens
the GPU waits. From one layer to the next only addresses change.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.compiler.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

_ALIGNMENT = 16
"""Of addresses: for one that is no multiple, Triton compiles anew."""

_INT32 = 1 << 31


class Launcher:
    """A kernel with its constants, kept (``functools.cache``) for each shape of a layer.

    Args:
        kernel: of ``triton.jit``; its arguments are tensors, then numbers, then constexprs.
        tensors: how many of its arguments are tensors.
        constants: constexprs, and options such as ``num_warps``, by name.
    """

    def __init__(self, kernel: Any, tensors: int, **constants: Any) -> None:
        self._kernel, self._constants = kernel, constants
        self._compiled: dict[tuple[Any, ...], CompiledKernel] = {}
        params = kernel.params if isinstance(kernel, JITFunction) else []  # none of Triton's interpreter
        varying = [param for param in params if not param.is_constexpr]
        assert params[: len(varying)] == varying, "a constexpr stands before another argument"
        self._constexprs = [constants[param.name] for param in params[len(varying) :]]
        self._aligned = [
            index
            for index, param in enumerate(varying[:tensors])
            if not (param.do_not_specialize or param.do_not_specialize_on_alignment)
        ]
        numbers = varying[tensors:]
        self._special = [index for index, param in enumerate(numbers) if not param.do_not_specialize]
        self._plain = [index for index, param in enumerate(numbers) if param.do_not_specialize]

    def __call__(self, grid: tuple[int, int, int], tensors: tuple[torch.Tensor | None, ...], *numbers: float) -> None:
        """Launch.

        Args:
            tensors, numbers: in the kernel's order; None for a tensor that it does without, which is not the first.
        """
        assert tensors[0] is not None
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        key = (
            tensors[0].get_device(),
            *[None if tensor is None else tensor.dtype for tensor in tensors],
            *[numbers[index] for index in self._special],
        )
        compiled = self._compiled.get(key)
        if compiled is not None and self._fits(addresses, numbers):
            compiled[grid](*addresses, *numbers, *self._constexprs)
            return
        compiled = self._kernel[grid](*tensors, *numbers, **self._constants)
        if isinstance(compiled, CompiledKernel) and self._fits(addresses, numbers):
            self._compiled[key] = compiled

    def _fits(self, addresses: list[int | None], numbers: tuple[float, ...]) -> bool:
        """Whether the kernel that was compiled for aligned addresses and 32-bit numbers is meant."""
        bits = 0
        for index in self._aligned:
            bits |= addresses[index] or 0
        for index in self._plain:
            if not -_INT32 <= numbers[index] < _INT32:
                return False
        return bits % _ALIGNMENT == 0
