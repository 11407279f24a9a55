"""What launches after the first hand to CUDA's driver, without a GPU; run by test_launch.py in a process of its own.

Kernels are compiled for a GPU and launched from CPU tensors. In place of the driver stands what reads a launch as the
driver does, by the types that the compiled kernel declares for its parameters.
"""

from __future__ import annotations

# ruff: noqa: I001 -- the interpreter is chosen before triton is imported

import ctypes
import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import compile_kernels

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels import cuda_launch
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.many import store_many
from vllm_kivi.kernels.repeat import Repeat
from vllm_kivi.kernels.staging import stage_heads, stage_newest
from vllm_kivi.layout import staged_bytes

TYPES = {
    "u64": ctypes.c_uint64,
    "b64": ctypes.c_uint64,
    "u32": ctypes.c_int,
    "b32": ctypes.c_int,
    "f32": ctypes.c_float,
}


class Launch(NamedTuple):
    """As the driver reads it."""

    kernel: str
    code: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    overlap: bool
    values: tuple[float, ...]


launched: list[Launch] = []
bound: list[str] = []
"""Kernels that Triton bound the arguments of."""

compared: list[str] = []

compiled_kernels: dict[int, CompiledKernel] = {}


def parameters_of(compiled: CompiledKernel) -> list[Any]:
    """C types of a kernel's parameters, as its machine code declares them."""
    entry = re.search(r"\.entry .*?\)", compiled.asm["ptx"], re.DOTALL)
    assert entry is not None
    return [TYPES[kind] for kind in re.findall(r"\.param \.(\w+)", entry[0])]


class Driver:
    @staticmethod
    def cuFuncGetParamInfo(function: int, index: int, _: Any, size: Any) -> int:  # noqa: N802 -- CUDA's name
        parameters = parameters_of(compiled_kernels[function])
        if index == len(parameters):
            return 1
        size._obj.value = ctypes.sizeof(parameters[index])
        return 0

    @staticmethod
    def cuLaunchKernelEx(config: int, function: int, pointers: int, extra: None) -> int:  # noqa: N802
        assert extra is None
        compiled = compiled_kernels[function]
        parameters = parameters_of(compiled)
        x, y, z, threads, *others, shared = (ctypes.c_uint * 7).from_address(config)
        assert others == [1, 1]
        count = ctypes.c_uint.from_address(config + 48).value
        if count:
            place = ctypes.c_uint64.from_address(config + 40).value
            assert (count, *(ctypes.c_int * 3).from_address(place)) == (1, 6, 0, 1)
        places = (ctypes.c_uint64 * len(parameters)).from_address(pointers)
        values = tuple(kind.from_address(place).value for kind, place in zip(parameters, places, strict=True))
        launched.append(Launch(compiled.name, compiled.hash, (x, y, z), threads, shared, count == 1, values))
        return 0


def bind(kernel: JITFunction, grid: Any) -> Any:
    def launch(*args: Any, **options: Any) -> Any:
        bound.append(kernel.fn.__name__)
        compiled = kernel.run(*args, grid=grid, warmup=True, **options)
        compiled.function = id(compiled)
        compiled_kernels[id(compiled)] = compiled
        return compiled

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
    compiled = kernel.run(*tensors, *numbers, grid=grid, warmup=True, **self._constants)
    names = [name for name, kind in compiled.src.signature.items() if kind != "constexpr"]
    plain = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in (arguments[name] for name in names)]
    rounded = [ctypes.c_float(x).value if isinstance(x, float) else x for x in plain]
    meta = compiled.metadata
    assert launched[-1] == Launch(
        compiled.name, compiled.hash, grid, 32 * meta.num_warps, meta.shared, bool(meta.launch_pdl), (*rounded, 0, 0)
    )
    compared.append(compiled.name)


def stage(first: int) -> None:
    """Keys and values that begin at an element of their memory."""
    out, x = (torch.zeros(2, 4096, dtype=torch.bfloat16)[:, first : first + 2048].view(2, 4, 8, 64) for _ in range(2))
    stage_heads((out[0], out[1]), (x[0], x[1]), True)


def again() -> None:
    """All kernels twice: none is bound anew."""
    compile_kernels.run("k4v4", 64, 2, torch.bfloat16)
    kinds = set(bound)
    bound.clear()
    launched.clear()
    compile_kernels.run("k4v4", 64, 2, torch.bfloat16)
    assert not bound
    assert {each.kernel for each in launched} == kinds


def misaligned() -> None:
    """Bound anew where Triton would compile anew: from an address that is no multiple of 16 bytes."""
    stage(0)
    for first, directly in ((1, False), (8, True), (4, False), (16, True)):  # elements of two bytes
        bound.clear()
        stage(first)
        assert bool(bound) != directly, f"from element {first}: {bound}"


class Layer:
    """A layer's own tensors: keys and values beside each other, as models give them."""

    def __init__(self, tokens: int) -> None:
        config = PRESETS["k4v4"]
        self.layout = config.layout(64, 128)
        heads = torch.zeros(tokens, 4, 64, dtype=torch.bfloat16)
        self.key, self.value = heads[:, :2], heads[:, 2:]
        self.pages = torch.zeros(4, 2, self.layout.record_bytes, dtype=torch.uint8)
        lengths = config.key_staging_tokens(), config.value_staging_tokens()
        self.rings = tuple(torch.zeros(3, 2, length, staged_bytes(64), dtype=torch.uint8) for length in lengths)


class Step:
    """The work of layers on a step's tokens from ``first`` on."""

    def __init__(self, tokens: int, first: int) -> None:
        counts = torch.zeros(1, dtype=torch.int32)
        self.batch = Batch(torch.zeros(2, dtype=torch.int32), counts, counts[:, None].repeat(1, 4), counts, counts)
        self.slots, self.first = torch.zeros(tokens - first, dtype=torch.int64), first
        self.staged = tuple(torch.zeros(tokens - first, 2, 64, dtype=torch.bfloat16) for _ in range(2))

    def run(self, layer: Layer, repeat: Repeat, rotation: bool = True) -> list[Launch]:
        launched.clear()
        fresh = layer.key[self.first :], layer.value[self.first :]
        repeat.enter((layer.key, layer.value), self.first, (layer.pages, *layer.rings), rotation)
        repeat(
            "store",
            lambda: store_many(
                layer.layout, layer.pages, self.batch, self.slots, self.staged, fresh, layer.rings, True, rotation
            ),
        )
        repeat("stage", lambda: stage_newest(layer.rings, self.batch, self.staged))
        return list(launched)


def repeated() -> None:
    """Layers after the first launch what they would alone, without asking for it, and so do layers of another form."""
    for first in (0, 3):
        step, layers = Step(40, first), [Layer(40) for _ in range(3)]
        alone = [step.run(layer, Repeat()) for layer in layers]  # the first is compiled, and so not seen
        repeat, work = Repeat(), Launcher.__call__
        assert step.run(layers[1], repeat) == alone[1] != alone[2]
        Launcher.__call__ = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        assert step.run(layers[2], repeat) == alone[2]
        assert step.run(layers[1], repeat) == alone[1]
        Launcher.__call__ = work  # type: ignore[method-assign]
        other = Layer(50)
        assert step.run(other, repeat) == step.run(other, Repeat())
        step.run(layers[0], Repeat(), rotation=False)  # compiled
        assert step.run(layers[1], repeat) == alone[1]
        assert step.run(layers[1], repeat, rotation=False) == step.run(layers[1], Repeat(), rotation=False) != alone[1]


if __name__ == "__main__":
    target = GPUTarget("cuda", 90, 32)
    driver.set_active(
        SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target)
    )  # type: ignore[arg-type]
    JITFunction.__getitem__ = bind  # type: ignore[method-assign]
    cuda_launch._driver = lambda: Driver  # type: ignore[assignment]
    launch = Launcher.__call__
    Launcher.__call__ = expected  # type: ignore[method-assign]
    again()
    misaligned()
    repeated()
    print(len(compared))
