"""How far a cache moves next-token distributions: KL divergence from the reference, agreement of the top token."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .text import TextError

Floats = NDArray[np.floating[Any]]
Tokens = NDArray[np.int32]

# Log-probabilities come as float32, so what a distribution leaves to the rest is not known any better than this.
_REST_FLOOR = 1e-6


def likeliest(entry: Mapping[int, Any], count: int) -> tuple[list[int], list[float]]:
    """The `count` likeliest tokens of one position with their log-probabilities in nats, the likeliest first.

    `entry` is one of vLLM's ``prompt_logprobs``: token id to something with ``rank`` (from 1) and ``logprob``. It also
    holds the text's own token, whatever its rank.

    Raises:
        TextError: fewer are listed, or one is not finite.
    """
    ranked = sorted((item.rank, token, item.logprob) for token, item in entry.items() if item.rank <= count)
    if len(ranked) != count:
        raise TextError(f"vLLM listed {len(ranked)} of the {count} likeliest tokens")
    return [token for _, token, _ in ranked], [_finite(logprob) for *_, logprob in ranked]


def listed(entry: Mapping[int, Any], tokens: Iterable[int]) -> list[float]:
    """Log-probabilities in nats of `tokens` at one position, NaN for those that are not listed there."""
    return [_finite(entry[token].logprob) if token in entry else math.nan for token in tokens]


def kl_divergence(reference: Floats, cache: Floats) -> Floats:
    """KL(reference || cache) of each position in nats, shape [positions].

    Both are log-probabilities of the same tokens, shape [positions, k]: the reference's likeliest ones. All other
    tokens are one outcome, the rest. A token that is NaN in `cache` was not listed there and joins the rest on both
    sides. Uniting outcomes can only lower the divergence, so this is a lower bound of that over the whole vocabulary.
    """
    known = ~np.isnan(cache)
    p = _with_rest(np.where(known, np.exp(reference, dtype=np.float64), 0.0))
    q = _with_rest(np.where(known, np.exp(cache, dtype=np.float64), 0.0))
    # An outcome without mass in the reference adds nothing; 1 keeps the logarithm of it defined.
    terms = p * np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0))
    # Of two equal distributions rounding may leave less than nothing.
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))


def summarize(reference: Floats, tokens: Tokens, cache: Floats, top: Sequence[int], windows: int) -> dict[str, Any]:
    """Figures of all positions: `kl_*` in nats, the others shares from 0 to 1.

    Args:
        reference: log-probabilities of `tokens`, shape [positions, k].
        tokens: the reference's likeliest tokens, the likeliest first, shape [positions, k].
        cache: log-probabilities of `tokens` under the cache, NaN where it did not list one, shape [positions, k].
        top: the cache's likeliest token of each position.
        windows: how many windows of equal length the positions are of; each one's mean is kept for paired tests.
    """
    kl = kl_divergence(reference, cache)
    unlisted = np.where(np.isnan(cache), np.exp(reference), 0.0).sum(axis=1)
    return {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.percentile(kl, 99)),
        "top1_agreement": float((tokens[:, 0] == np.asarray(top)).mean()),
        # What the reference gives to tokens that the cache's cell did not list, and the divergence cannot see apart.
        "unlisted_mass": float(unlisted.mean()),
        "window_kl": [float(mean) for mean in kl.reshape(windows, -1).mean(axis=1)],
    }


def _with_rest(probabilities: Floats) -> Floats:
    rest = np.maximum(1.0 - probabilities.sum(axis=1, keepdims=True), _REST_FLOOR)
    whole = np.concatenate([probabilities, rest], axis=1)
    return np.asarray(whole / whole.sum(axis=1, keepdims=True))


def _finite(logprob: float) -> float:
    if not math.isfinite(logprob):
        raise TextError("a log-probability is not finite: the model's output is broken with this cache")
    return logprob
