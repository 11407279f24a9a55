"""A layer's launches made again for the next one, with its addresses in place of the first one's.

In a step all layers launch the same kernels over the same batch, and only a few addresses differ. Where no CUDA graph
does it (a step with prompts), what a layer launches is noted once a step and repeated from there: 2 us of the host for
a launch in place of 10. Everything else that launches read has to live, unchanged, until the step's last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from triton.runtime.driver import driver

from vllm_kivi.kernels.cuda_launch import Arguments, CudaLaunch, Grid, Launched, noted

_ALIGNMENT = 16
"""Of addresses, which launches rely on (see launch.py)."""


class _Place(NamedTuple):
    """An argument that lies in a layer's tensor: which argument, which tensor, and how many bytes behind its start."""

    slot: int
    tensor: int
    offset: int


class _Again(NamedTuple):
    kernel: CudaLaunch
    grid: Grid
    arguments: Arguments
    places: list[_Place]


class Repeat:
    """The launches of one step; :meth:`enter` each layer, then call it with each part of the layer's work."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, list[_Again]] = {}
        self._kind: tuple[object, ...] | None = None  # None: as long as nothing may be repeated
        self._stream = 0
        self._starts: list[int] = []
        self._offsets: list[int] = []

    def enter(
        self, by_token: Sequence[torch.Tensor], first: int, others: Sequence[torch.Tensor], constants: Hashable
    ) -> None:
        """Begin a layer; one that differs in more than addresses from the layer before is noted anew.

        Args:
            by_token, others: all tensors that are the layer's own, in an order of the caller's.
            first: token from which parts of the work see those of ``by_token``, beside all of them; 0 where none does.
            constants: all other that the layer may launch with and another may not.
        """
        tensors = *by_token, *others
        self._starts = [tensor.data_ptr() for tensor in tensors]
        self._stream = driver.active.get_current_stream(tensors[0].get_device())
        kind = None
        if not any(start % _ALIGNMENT for start in self._starts):
            forms = [each for tensor in tensors for each in (tensor.dtype, tensor.shape, tensor.stride())]
            kind = (self._stream, first, constants, *forms)
        if kind != self._kind:
            self._parts.clear()
            self._kind = kind
            self._offsets = [first * tensor.stride(0) * tensor.element_size() for tensor in by_token]

    def __call__(self, part: Hashable, work: Callable[[], None]) -> None:
        """Do a part of a layer's work, or repeat what it launched in the layer before.

        Args:
            part: its name; in a layer each comes once, and in all layers in the same order.
            work: launches kernels and does nothing else.
        """
        again = self._parts.get(part)
        if again is None:
            launches = noted(work)
            if launches is not None and self._kind is not None:
                self._parts[part] = self._bind(launches)
            return
        starts, stream = self._starts, self._stream
        for kernel, grid, arguments, places in again:
            slots = arguments.slots
            for slot, tensor, offset in places:
                slots[slot] = starts[tensor] + offset
            kernel.launch(grid, stream, arguments)

    def _bind(self, launches: list[Launched]) -> list[_Again]:
        parts = {self._starts[tensor] + offset: (tensor, offset) for tensor, offset in enumerate(self._offsets)}
        owners = parts | {start: (tensor, 0) for tensor, start in enumerate(self._starts)}
        found = []
        for kernel, grid, values in launches:
            places = [
                _Place(slot, *owners[int(value)])
                for slot, (value, kind) in enumerate(zip(values, kernel.types, strict=True))
                if kind == "pointer" and value in owners
            ]
            found.append(_Again(kernel, grid, kernel.pack(Arguments(len(values)), values), places))
        return found
