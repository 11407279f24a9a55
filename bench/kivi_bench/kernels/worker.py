"""The process of one implementation: answers one request a line with one JSON event a line.

Requests, on the standard input: ``{"copy": true}`` or ``{"batch": .., "context": .., "ratio": ..}``; the end of the
input ends the process. Events: ``ready`` or ``refused`` once, then a ``copy`` or ``measured`` for each request.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivi_bench.events import Events, open_events
from kivi_bench.kernels.shapes import Shape


@dataclass(frozen=True)
class Order:
    """What a worker is started with.

    Attributes:
        name: of the implementation.
        sources: measure the repository's kernels, whatever is installed.
        samples: of each figure.
        memory: bytes that a shape may take; None for all that are free.
        seed: of random caches and queries.
        log: where everything goes that is not an event.
    """

    name: str
    sources: bool
    samples: int
    memory: int | None
    seed: int
    log: str


def main(order: Order) -> int:
    """Serves requests until there are no more; 0 unless the CUDA context was lost."""
    events = open_events(Path(order.log))
    try:
        refused = no_gpu()
        if refused is not None:
            events.emit("refused", status="unsupported", reason=refused)
            return 0
        return _serve(order, events)
    except Exception as error:
        traceback.print_exc()
        from kivi_bench.kernels.measure import failure

        events.emit("refused", **failure(error))
        return 1


def no_gpu() -> str | None:
    """Why nothing can be measured on this machine, or None."""
    try:
        import torch
    except ImportError as error:
        return f"this Python has no PyTorch: {error}"
    if not torch.cuda.is_available():
        return f"there is no CUDA device for PyTorch {torch.__version__}: the kernels run on NVIDIA GPUs only"
    return None


def _serve(order: Order, events: Events) -> int:
    import torch

    from kivi_bench.kernels.catalog import open_subject
    from kivi_bench.kernels.measure import Measurer, failure, release
    from kivi_bench.kernels.timing import Timer

    subject = open_subject(order.name, order.sources)
    torch.manual_seed(order.seed)
    measurer = Measurer(subject, Timer.open(order.samples), order.memory)
    events.emit("ready", machine=describe(subject, order.sources), bytesPerToken=subject.bytes_per_token)
    for line in sys.stdin:
        request = json.loads(line)
        if "copy" in request:
            samples, floor = measurer.timer.copy(), measurer.timer.floor()
            release()
            events.emit("copy", samplesUs=samples, floorUs=floor)
            continue
        try:
            answer = measurer.measure(Shape(**request))
        except Exception as error:
            print(f"--- {request}", file=sys.stderr, flush=True)
            traceback.print_exc()
            answer = failure(error)
        usable = True
        try:
            # Before the answer: the next process measures as soon as it comes, and needs the memory.
            release()
            torch.cuda.synchronize()
        except Exception:
            traceback.print_exc()
            usable = False  # the context is lost, a new process is needed
        events.emit("measured", **answer, contextLost=not usable)
        if not usable:
            return 1
    return 0


def describe(subject: Any, sources: bool) -> dict[str, Any]:
    """Versions and hardware that the figures depend on; `sources` as of an order."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def installed(*names: str) -> str | None:
        for name in names:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return None

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    folder = getattr(subject, "folder", None)
    kernels = None
    if folder is not None:
        from kivi_bench.kernels.plugin import digest

        kernels = digest(folder)
    return {
        "device": properties.name,
        "computeCapability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memoryBytes": properties.total_memory,
        "l2Bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": installed("triton"),
        "vllm": installed("vllm") or getattr(sys.modules.get("vllm"), "__version__", None),
        "plugin": "sources" if sources else installed("vllm-kivi"),
        "kernels": kernels,
        "python": platform.python_version(),
        "os": platform.platform(),
    }
