"""What an engine's process holds between two rounds of the same work, and whether it grew over many of them."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inprocess import generate, runner_of, scheduler_of
from support import prompt

ALLOWED_BYTES = 48 << 20
"""Resident memory may rise by this between the second quarter of the rounds and the last: allocators keep fragments."""

ALLOWED_OBJECTS = 0.01
"""And the pieces of memory that Python's objects take by this share of them: caches fill up."""


@dataclass(frozen=True)
class Held:
    """At rest, between two rounds.

    Attributes:
        resident: bytes of this process in memory.
        objects: pieces of memory that Python's objects take, whatever lies between them.
        handles: open file descriptors.
        threads: of this process.
        staging: bytes of all rings.
        slots: rings in use; a request that ended frees its own in the next step.
        free_blocks: blocks of the cache that no request holds.
    """

    resident: int
    objects: int
    handles: int
    threads: int
    staging: int
    slots: int
    free_blocks: int


def process_holds() -> dict[str, int]:
    """The first four of :class:`Held`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "objects": sys.getallocatedblocks(),
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def at_rest(llm: Any, staging: Callable[[], int]) -> Held:
    """After a step that tells the worker who ended; ``staging`` is asked then."""
    generate(llm, [prompt(3, seed=3)], 1)
    assert llm.reset_prefix_cache()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of freed memory is no growth
    return Held(
        **process_holds(),
        staging=staging(),
        slots=runner_of(llm).kivi_slots.used,
        free_blocks=scheduler_of(llm).kv_cache_manager.block_pool.get_num_free_blocks(),
    )


def growth(rounds: Sequence[Held]) -> tuple[dict[str, Any], list[str]]:
    """Figures of what grew, and what is wrong with them.

    The first quarter warms up. What is counted may not rise at all after it: `handles`, `threads`, `staging` and
    `slots`; nor may `free_blocks` fall.

    Raises:
        ValueError: fewer than eight rounds, of which no trend can be told.
    """
    if len(rounds) < 8:
        raise ValueError(f"{len(rounds)} rounds are too few to tell growth from noise: soak for longer")
    quarter = len(rounds) // 4
    early, late = rounds[quarter : 2 * quarter], rounds[-quarter:]
    resident = [int(statistics.median(held.resident for held in part)) for part in (early, late)]
    grown = resident[1] - resident[0]
    figures = {"resident_bytes": resident, "resident_grown_bytes": grown, "last": asdict(rounds[-1])}
    problems = [f"resident memory grew by {grown >> 20} MiB"] if grown > ALLOWED_BYTES else []
    before, after = (statistics.median(held.objects for held in part) for part in (early, late))
    figures["objects"] = [int(before), int(after)]
    if after > before * (1 + ALLOWED_OBJECTS):
        problems.append(f"memory of Python's objects grew from {before:.0f} to {after:.0f} pieces")
    for name in ("handles", "threads", "staging", "slots"):
        before, after = (max(getattr(held, name) for held in part) for part in (early, late))
        if after > before:
            problems.append(f"{name} grew from {before} to {after}")
    if min(held.free_blocks for held in late) < min(held.free_blocks for held in early):
        problems.append("blocks of the cache were not given back")
    return figures, problems
