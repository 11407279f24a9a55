"""Launching a compiled kernel through the driver's own interface (``cuLaunchKernelEx``), arguments packed in place.

About 3 us on the host; 10 by Triton's launcher and by cuda-python, which take each argument apart in every launch.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

Grid = tuple[int, int, int]
"""Blocks."""

_SLOT = 8
"""Bytes that an argument has in the buffer, whatever its size."""

_FORMATS = {"pointer": "Q", "i64": "q", "i32": "i", "fp32": "f"}
"""Of a value, as the kernel reads it."""

_PROGRAMMATIC_STREAM_SERIALIZATION = 6
"""CUlaunchAttributeID of a launch that may start while the one before it ends."""

_NO_SUCH_PARAMETER = 1
"""CUDA_ERROR_INVALID_VALUE, which cuFuncGetParamInfo answers past a kernel's last parameter."""


class KernelError(RuntimeError):
    """A kernel did not compile or launch."""


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _Config(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_uint),
        ("y", ctypes.c_uint),
        ("z", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("threads_y", ctypes.c_uint),
        ("threads_z", ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    )


class CudaLaunch:
    """A kernel with room for its arguments; for one thread at a time.

    Args:
        function: CUfunction of the current device.
        types: of its parameters, in order: ``pointer``, ``i64``, ``i32`` or ``fp32``.
        threads: of a block.
        shared: bytes of dynamic shared memory of a block.
        overlap: whether it may start while the launch before it ends; the kernel waits for that itself.

    Attributes:
        types: as above.
        noting: where the process notes what it launches, see :func:`noted`; None: nowhere.

    Raises:
        KernelError: the kernel has other parameters.
    """

    noting: ClassVar[list[Launched] | None] = None

    def __init__(self, function: int, types: Sequence[str], threads: int, shared: int, overlap: bool) -> None:
        _check_parameters(function, types)
        self.types = types
        self._function = function
        slots = "".join(f"{_FORMATS[each]}{_SLOT - _size(each)}x" for each in types)
        self._pack = struct.Struct(f"<{slots}").pack_into
        self._attribute = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)
        attributes = ctypes.addressof(self._attribute) if overlap else None
        self._config = _Config(0, 0, 0, threads, 1, 1, shared, None, attributes, int(overlap))
        self._config_at = ctypes.addressof(self._config)
        self._grid = 0, 0, 0
        self._launch = _driver().cuLaunchKernelEx
        self._own = Arguments(len(types))

    def __call__(self, grid: Grid, stream: int, values: Sequence[float]) -> None:
        """Launch on a stream; addresses and numbers in the order of the kernel's parameters.

        Raises:
            KernelError: the driver refuses.
        """
        self.launch(grid, stream, self.pack(self._own, values))
        if CudaLaunch.noting is not None:
            CudaLaunch.noting.append(Launched(self, grid, values))

    def pack(self, arguments: Arguments, values: Sequence[float]) -> Arguments:
        """Write all values."""
        self._pack(arguments.slots, 0, *values)
        return arguments

    def launch(self, grid: Grid, stream: int, arguments: Arguments) -> None:
        """Launch with arguments that :meth:`pack` has written.

        Raises:
            KernelError: the driver refuses.
        """
        self._config.stream = stream
        if grid != self._grid:
            self._config.x, self._config.y, self._config.z = self._grid = grid
        status = self._launch(self._config_at, self._function, arguments.pointers, None)
        if status:
            raise KernelError(f"KIVI: cuLaunchKernelEx failed with CUDA error {status}, grid {grid}")


class Arguments:
    """Values of a kernel's arguments, each in a slot of its own.

    Attributes:
        slots: may be written one by one.
        pointers: address of the addresses of all slots, as the driver takes them.
    """

    def __init__(self, count: int) -> None:
        self.slots = (ctypes.c_uint64 * count)()
        first = ctypes.addressof(self.slots)
        self._pointers = (ctypes.c_void_p * count)(*range(first, first + _SLOT * count, _SLOT))
        self.pointers = ctypes.addressof(self._pointers)


class Launched(NamedTuple):
    """One launch."""

    kernel: CudaLaunch
    grid: Grid
    values: Sequence[float]


def noted(work: Callable[[], None]) -> list[Launched] | None:
    """Do some work and say what it launched; None if there was a launch that did not go through this module."""
    before, CudaLaunch.noting = CudaLaunch.noting, []
    try:
        work()
        return CudaLaunch.noting
    finally:
        CudaLaunch.noting = before


def launched_otherwise() -> None:
    """Tell :func:`noted` that there was a launch that it cannot know."""
    CudaLaunch.noting = None


def _size(kind: str) -> int:
    """Bytes of a parameter."""
    return struct.calcsize(f"<{_FORMATS[kind]}")


def _check_parameters(function: int, types: Sequence[str]) -> None:
    """What is packed is what the kernel reads, by the driver's word."""
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    for index in range(len(types) + 1):
        status = _driver().cuFuncGetParamInfo(function, index, ctypes.byref(offset), ctypes.byref(size))
        found = size.value if status == 0 else None
        expected = _size(types[index]) if index < len(types) else None
        if status not in (0, _NO_SUCH_PARAMETER) or found != expected:
            raise KernelError(
                f"KIVI: parameter {index} of a kernel has {found} bytes for {expected} (CUDA status {status})"
            )


@functools.cache
def _driver() -> Any:
    driver = ctypes.CDLL("libcuda.so.1")
    pointer = ctypes.c_void_p
    driver.cuLaunchKernelEx.argtypes = [pointer, pointer, pointer, pointer]
    driver.cuFuncGetParamInfo.argtypes = [pointer, ctypes.c_size_t, pointer, pointer]
    return driver
