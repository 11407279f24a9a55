"""Times what a CUDA graph holds, with a cold L2 cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kivi_bench.kernels.shapes import COPY_BYTES

_WARM_UPS = 2
_LEAST_SAMPLES = 5
_SECONDS = 1.5
"""Of the samples of one figure, after which the least number is enough."""


@dataclass(frozen=True)
class Timer:
    """Takes samples on the current device.

    Attributes:
        samples: of each figure, fewer for what takes long.
        flush: float32, several times as large as the L2 cache.
    """

    samples: int
    flush: torch.Tensor

    @classmethod
    def open(cls, samples: int) -> Timer:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        size = max(256 << 20, 4 * int(properties.L2_cache_size))
        return cls(samples, torch.zeros(size // 4, dtype=torch.float32, device="cuda"))

    def time(self, run: Callable[[], object]) -> list[float]:
        """Microseconds of each replay of `run`, captured once; what it allocates lies in the graph's own pool."""
        for _ in range(_WARM_UPS):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        graph.replay()
        torch.cuda.synchronize()
        taken: list[float] = []
        began = time.perf_counter()
        while len(taken) < self.samples:
            if len(taken) >= _LEAST_SAMPLES and time.perf_counter() - began > _SECONDS:
                break
            taken.append(self._sample(graph))
        return taken

    def _sample(self, graph: torch.cuda.CUDAGraph) -> float:
        # Read, not written: lines that wait to be written back would be charged to the kernel. And it takes longer
        # than the host needs to queue the rest, so that the replay starts without a gap.
        self.flush.sum()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * float(start.elapsed_time(end))

    def copy(self) -> list[float]:
        """Microseconds of a copy of COPY_BYTES on the device, which reads and writes as many."""
        source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return self.time(lambda: target.copy_(source))

    def floor(self) -> list[float]:
        """Microseconds of a graph of one kernel that does next to nothing: what every figure holds at least."""
        one = torch.zeros(1, device="cuda")
        return self.time(lambda: one.add_(1.0))
