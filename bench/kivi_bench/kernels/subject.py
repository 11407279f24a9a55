"""What the benchmark needs of an implementation of decode attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from kivi_bench.kernels.shapes import HEAD_SIZE, KV_HEADS, Shape

DTYPE = torch.bfloat16
"""Of the model."""

SCALE = HEAD_SIZE**-0.5

PAGE = 16
"""Tokens of a block of vLLM's own caches."""


class UnsupportedError(RuntimeError):
    """The installed vLLM, the plugin or the GPU lacks the implementation, and why."""


@dataclass(frozen=True)
class Step:
    """A decode step, ready to run as often as one likes.

    Attributes:
        run: launches its kernels; allocates at most what a CUDA graph may.
        out: [batch, Hq, D], written by `run`.
        expected: what plain attention over the keys and values that were stored gives, float32 like `out`; None where
            other tests compare with that.
    """

    run: Callable[[], object]
    out: torch.Tensor
    expected: Callable[[], torch.Tensor] | None = None


class Subject(Protocol):
    """An implementation, opened on a device.

    Attributes:
        bytes_per_token: of one KV head, keys and values.
        tolerance: largest relative error of a small step against plain attention, at which it still computes what it
            should: formats of few bits lose something, wrong ones everything.
    """

    bytes_per_token: float
    tolerance: float

    def bytes_read(self, shape: Shape) -> int:
        """Bytes of the cache that a step reads at least once."""

    def bytes_held(self, shape: Shape) -> int:
        """Bytes of GPU memory that a step takes, about."""

    def prepare(self, shape: Shape) -> Step:
        """Makes caches and inputs."""


def block_table(shape: Shape, page: int) -> torch.Tensor:
    """int32 [batch, blocks of a row]: blocks in random order, as in a cache that was used for a while; 0 is unused."""
    blocks = -(-shape.context // page)
    order = torch.randperm(shape.batch * blocks, device="cuda") + 1
    return order.view(shape.batch, blocks).int()


def blocks_of(shape: Shape, page: int) -> int:
    """Blocks of the cache, the unused one included."""
    return shape.batch * -(-shape.context // page) + 1


def repeat_blocks(cache: torch.Tensor, filled: int) -> None:
    """Copies the first `filled` blocks over all others, twice as many at a time."""
    total = cache.shape[0]
    while filled < total:
        count = min(filled, total - filled)
        cache[filled : filled + count].copy_(cache[:count])
        filled += count


def random_query(shape: Shape, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    """[batch, Hq, D]."""
    return torch.randn(shape.batch, shape.query_heads, HEAD_SIZE, device="cuda").to(dtype)


def plain_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """float32 [batch, Hq, D] of query [batch, Hq, D] over keys and values [batch, context, H, D]."""
    keys, values = (x.float().transpose(1, 2) for x in (keys, values))
    ratio = query.shape[1] // KV_HEADS
    keys, values = (x.repeat_interleave(ratio, 1) for x in (keys, values))
    weights = torch.softmax(torch.einsum("bhd,bhtd->bht", query.float(), keys) * SCALE, -1)
    return torch.einsum("bht,bhtd->bhd", weights, values)
