"""Blocks that change hands between layers of different kinds: emptied before their new owner's step.

Beside layers with a sliding window a block that held packed codes is later a block of floating-point keys and values,
and the reverse. Attention multiplies what it masks by zero, and codes read as numbers may be NaN or infinite; vLLM has
the same between Mamba and attention (``KVCacheConfig.needs_kv_cache_zeroing``) and empties such blocks likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

NULL_BLOCK = 0
"""What vLLM puts in a block table where a window has passed; attention reads and masks it."""


class FreshBlocks:
    """Empties the blocks that a step's requests were newly given.

    Args:
        block_sizes: tokens of a block of each KV cache group.
        layers: the KIVI layers, whose ``kv_cache`` is uint8 [blocks, H, record bytes]. Their pages fill the memory that
            they share with layers of other kinds; memory without a KIVI layer never holds codes.
    """

    def __init__(self, block_sizes: list[int], layers: Sequence[Any]) -> None:
        self.block_sizes, self.layers = block_sizes, layers

    @cached_property
    def pages(self) -> list[torch.Tensor]:
        """Int64 [blocks, page bytes / 8], once where layers of two of our groups share; known from the first step on,
        since vLLM may profile with a cache that it throws away."""
        shared = {layer.kv_cache.data_ptr(): layer.kv_cache for layer in self.layers}
        return [cache.flatten(1).view(torch.int64) for cache in shared.values()]

    def empty(self, scheduler_output: Any) -> None:
        """Before a step; ``scheduler_output`` is vLLM's."""
        again = scheduler_output.scheduled_cached_reqs
        blocks = {NULL_BLOCK}
        for request in scheduler_output.scheduled_new_reqs:
            blocks |= self._after_hit(request.block_ids, request.num_computed_tokens)
        for name, given, computed in zip(again.req_ids, again.new_block_ids, again.num_computed_tokens, strict=True):
            if given is not None:
                blocks |= self._after_hit(given, computed if name in again.resumed_req_ids else 0)
        if len(blocks) == 1:
            return
        device = self.pages[0].device
        ids = torch.tensor(sorted(blocks), pin_memory=device.type == "cuda").to(device, non_blocking=True)
        for pages in self.pages:
            pages.index_fill_(0, ids, 0)

    def _after_hit(self, block_ids: tuple[list[int], ...], computed: int) -> set[int]:
        """Blocks of all groups but those that hold the first ``computed`` tokens, which a prefix hit brought."""
        groups = zip(block_ids, self.block_sizes, strict=True)
        return {block for ids, block_size in groups for block in ids[computed // block_size :]}
