"""How long greedy answers stay those of the reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .text import TextError


def prompts(tokens: Sequence[int], count: int, size: int, seed: int, prefix: Sequence[int] = ()) -> list[list[int]]:
    """`count` pieces of the text, each `size` tokens with `prefix` in front; other places for other seeds.

    Raises:
        TextError: the text has fewer places.
    """
    length = size - len(prefix)
    places = len(tokens) - length + 1
    if length < 1 or places < count:
        raise TextError(
            f"the text has {len(tokens)} tokens, too few for {count} different prompts of {size}; use a longer text"
        )
    starts = np.random.default_rng(seed).choice(places, count, replace=False)
    return [[*prefix, *tokens[start : start + length]] for start in starts.tolist()]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first that differs, or before the shorter one's end."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def summarize(reference: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Mean length in tokens of the common prefixes, and the share of answers that are the reference's to the end."""
    lengths = [common_prefix(own, its) for own, its in zip(answers, reference, strict=True)]
    same = [list(own) == list(its) for own, its in zip(answers, reference, strict=True)]
    return {
        "prefix_tokens": sum(lengths) / len(lengths),
        "identical": sum(same) / len(same),
        "prefix_lengths": lengths,
    }
