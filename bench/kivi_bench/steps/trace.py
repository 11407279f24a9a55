"""What a profiler's trace says of kernels: their share of the time, and one layer's in their order."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import median
from typing import Any, NamedTuple

ATTENTION = re.compile(
    r"kivi_decode|_attend_kernel|kernel_unified_attention|_tq_|(?<!cache_)flash(?!.*(Combine|prepare|reshape))", re.I
)
"""The attention kernel of a layer, by its name; once a layer in a step."""

STORE = re.compile(
    r"_values_kernel|_close_kernel|_prepare_kernel|_newest_kernel|_append_kernel|reshape_and_cache", re.I
)
"""Kernels that put keys and values into a cache."""

NEIGHBOURS = 8
"""Steps before the one that closes groups, with which it is compared."""


class Kernel(NamedTuple):
    """Times in microseconds."""

    name: str
    start: float
    duration: float


def kernels(events: list[dict[str, Any]]) -> list[Kernel]:
    """Kernels and copies on the GPU, by their start."""
    found = [
        Kernel(_short(str(event["name"])), float(event["ts"]), float(event["dur"]))
        for event in events
        if event.get("ph") == "X" and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    return sorted(found, key=lambda kernel: kernel.start)


def _short(name: str) -> str:
    """Its beginning: templates make names of a thousand characters."""
    bare = re.sub(r"^void\s+", "", name)
    return bare if len(bare) <= 90 else f"{bare[:87]}..."


def shares(found: list[Kernel], steps: int) -> list[dict[str, Any]]:
    """By name, the longest first: launches and microseconds of one step."""
    total: dict[str, list[float]] = defaultdict(list)
    for kernel in found:
        total[kernel.name].append(kernel.duration)
    rows = [{"name": name, "launches": len(each) / steps, "us": sum(each) / steps} for name, each in total.items()]
    return sorted(rows, key=lambda row: -float(row["us"]))


def store_share(found: list[Kernel]) -> float:
    """Part of all kernels' time that goes into putting keys and values into the cache, 0 to 1."""
    total = sum(kernel.duration for kernel in found)
    return _spent(found, STORE) / total if total else 0.0


def _spent(found: list[Kernel], names: re.Pattern[str]) -> float:
    return sum(kernel.duration for kernel in found if names.search(kernel.name))


def busy(found: list[Kernel]) -> float:
    """Microseconds in which at least one kernel ran."""
    total, end = 0.0, float("-inf")
    for kernel in found:
        last = kernel.start + kernel.duration
        total += max(0.0, last - max(kernel.start, end))
        end = max(end, last)
    return total


def closing(found: list[Kernel], layers: int) -> dict[str, float]:
    """Microseconds that kernels take in a step that closes key groups, and in one that does not.

    A step is what runs from after one step's last attention kernel to that of the next. The one that spends most on
    storing and attention is taken for the closing one, the median of those before it, whose contexts are as long, for
    one that closes nothing.
    """
    steps: list[list[Kernel]] = [[]]
    marks = 0
    for kernel in found:
        steps[-1].append(kernel)
        if ATTENTION.search(kernel.name):
            marks += 1
            if marks % layers == 0:
                steps.append([])
    whole = steps[1:-1]
    if len(whole) < 3:
        raise ValueError(f"the trace holds {len(whole)} whole steps of {layers} layers, too few to compare")
    store, attention = ([_spent(step, names) for step in whole] for names in (STORE, ATTENTION))
    times = [busy(step) for step in whole]
    at = max(range(1, len(whole)), key=lambda step: store[step] + attention[step])
    before = slice(max(at - NEIGHBOURS, 0), at)
    plain = median(times[before])
    return {
        "plain_us": plain,
        "closing_us": times[at],
        "ratio": times[at] / plain,
        "store_us": median(store[before]),
        "closing_store_us": store[at],
        "attention_us": median(attention[before]),
        "closing_attention_us": attention[at],
        "median_us": median(times),
    }


def layer(found: list[Kernel], layers: int) -> list[dict[str, Any]]:
    """A layer inside a step, in the middle of the trace: from after an attention kernel to the end of the next one.

    `at` is microseconds after the earlier attention's end; below zero where a launch overlaps it.
    """
    marks = [index for index, kernel in enumerate(found) if ATTENTION.search(kernel.name)]
    middle = len(marks) // (2 * layers) * layers + layers // 2
    if layers < 2 or middle >= len(marks):
        return []
    first, last = marks[middle - 1], marks[middle]
    zero = found[first].start + found[first].duration
    return [
        {"name": kernel.name, "at": round(kernel.start - zero, 2), "us": round(kernel.duration, 2)}
        for kernel in found[first + 1 : last + 1]
    ]
