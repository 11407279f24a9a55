"""Perplexity through the engine: the log-probabilities it gives to the tokens of its own prompts."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from .text import TextError, sha256


def windows(tokens: Sequence[int], size: int, limit: int, prefix: Sequence[int] = ()) -> list[list[int]]:
    """Consecutive windows of `size` tokens each, at most `limit`, the rest of the text left out.

    `prefix` (a model's beginning-of-text token, if it has one) opens every window and counts in its size.

    Raises:
        TextError: the text is shorter than one window.
    """
    step = size - len(prefix)
    if len(tokens) < step:
        raise TextError(
            f"the text has {len(tokens)} tokens, fewer than one window of {size}; use a longer text or a smaller window"
        )
    count = min(limit, len(tokens) // step)
    return [[*prefix, *tokens[index * step : (index + 1) * step]] for index in range(count)]


def window_nll(window: Sequence[int], logprobs: Sequence[Any]) -> float:
    """Negative log-likelihood of a window in nats: all its tokens but the first, which nothing predicts.

    `logprobs` is vLLM's ``prompt_logprobs``: None for the first token, then a dict from token id to an entry with a
    ``logprob``.
    """
    if len(logprobs) != len(window):
        raise TextError(f"vLLM scored {len(logprobs)} of {len(window)} prompt tokens")
    total = 0.0
    for token, entry in zip(window[1:], logprobs[1:], strict=True):
        total -= entry[token].logprob
    if not math.isfinite(total):
        raise TextError("a log-probability is not finite: the model's output is broken with this cache")
    return total


def score(
    text: str,
    all_windows: list[list[int]],
    logprobs_of: Callable[[list[int]], Sequence[Any]],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The perplexity suite's result; `nll` is in nats per scored token, each window's own kept for paired tests."""
    sums = []
    for index, window in enumerate(all_windows):
        progress(index, len(all_windows))
        sums.append(window_nll(window, logprobs_of(window)))
    scored = sum(len(window) - 1 for window in all_windows)
    nll = sum(sums) / scored
    return {
        "perplexity": math.exp(nll),
        "nll": nll,
        "scored_tokens": scored,
        "window": len(all_windows[0]),
        "windows": len(all_windows),
        "window_nll": [total / (len(window) - 1) for total, window in zip(sums, all_windows, strict=True)],
        "text_sha256": sha256(text),
    }
