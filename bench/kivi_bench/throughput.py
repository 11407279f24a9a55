"""Prefill and decode tokens per second of the whole engine."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from .spec import Shape

GPU_SECONDS = 5.0
"""Of the samples of one shape at least: on a GPU a short shape takes less than the machine's hiccups."""

MOST_SAMPLES = 9
"""Of one shape, unless more were asked for."""


def rates(shape: Shape, prefill_seconds: float, total_seconds: float) -> tuple[float, float | None]:
    """Tokens per second: (prefill, decode).

    `prefill_seconds` is the time of the prompts and one token each, `total_seconds` that of the prompts and `new` + 1
    tokens each, so that their difference holds `new` decode steps and nothing else. Decode is None when the difference
    is not positive: that is noise, not a rate.
    """
    prefill = shape.batch * shape.context / prefill_seconds
    spent = total_seconds - prefill_seconds
    return prefill, (shape.batch * shape.new / spent if spent > 0 else None)


def summarize(
    shape: Shape, warmup_seconds: float, samples: list[tuple[float, float]], tokens_held: int
) -> dict[str, Any]:
    """One shape's result: rates of the median times, and the samples themselves in seconds.

    Decode is taken from the medians of both times, not from the median of their differences: a spell of other load
    falls on one of a pair, and then on the difference many times over.
    """
    prefill, decode = rates(
        shape,
        statistics.median(seconds for seconds, _ in samples),
        statistics.median(seconds for _, seconds in samples),
    )
    return {
        "shape": shape.name,
        "batch": shape.batch,
        "context": shape.context,
        "new": shape.new,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        "warmup_seconds": warmup_seconds,
        "samples": [{"prefill_seconds": prefill, "total_seconds": total} for prefill, total in samples],
        # Sequences that do not fit are preempted and prefilled again: then the rate is of something else.
        "fits": shape.batch * (shape.context + shape.new + 1) <= tokens_held,
    }


def random_prompts(shape: Shape, vocabulary: int, seed: int, avoid: set[int]) -> list[list[int]]:
    """`batch` prompts of `context` random token ids, none in `avoid` (special tokens); equal for equal seeds."""
    import numpy as np

    rng = np.random.default_rng(seed)
    allowed = np.setdiff1d(np.arange(vocabulary), np.array(sorted(avoid), dtype=np.int64))
    return [rng.choice(allowed, shape.context).tolist() for _ in range(shape.batch)]


def measure(
    shape: Shape,
    prompts: list[list[int]],
    repeats: int,
    generate: Callable[[list[list[int]], int], None],
    least_seconds: float = 0.0,
) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of one warm-up and of each repeat (prefill, total); `generate(prompts, n)` makes n tokens for each.

    Prefill and total alternate, so that a slow spell of the machine falls on both. There are more repeats, up to
    MOST_SAMPLES, until they have taken `least_seconds`.
    """

    def timed(tokens: int) -> float:
        start = time.perf_counter()
        generate(prompts, tokens)
        return time.perf_counter() - start

    warmup = timed(min(shape.new, 4) + 1)
    samples: list[tuple[float, float]] = []
    while len(samples) < repeats or (len(samples) < MOST_SAMPLES and sum(map(sum, samples)) < least_seconds):
        samples.append((timed(1), timed(shape.new + 1)))
    return warmup, samples
