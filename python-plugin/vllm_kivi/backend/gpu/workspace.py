"""Rings of a layer, and scratch that all layers of a worker share; made while the model loads, so that both count."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from vllm_kivi.backend.gpu.prefill import Slab, flash_reach, new_slab, slab_units
from vllm_kivi.compat.facts import draft_tokens
from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.attend import split_count
from vllm_kivi.kernels.few import new_scratch
from vllm_kivi.kernels.helpers import processors_of
from vllm_kivi.kernels.many import Pair
from vllm_kivi.layout import CacheLayout, staged_bytes


def empty_rings(
    config: KiviConfig, slots: int, heads: int, head_size: int, drafts: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rings of keys and of values: uint8 [slots, H, ring tokens, staged bytes]."""
    lengths = config.key_staging_tokens(drafts), config.value_staging_tokens(drafts)
    shapes = ((slots, heads, tokens, staged_bytes(head_size)) for tokens in lengths)
    key, value = (torch.zeros(shape, dtype=torch.uint8, device=device) for shape in shapes)
    return key, value


class Workspace:
    """Scratch for the largest step that the scheduler may send.

    Args:
        max_seqs, max_tokens, max_model_len: of the engine's configuration.
        queries: the most tokens of a row of few.

    Attributes:
        slab: for prefill by FlashAttention; None where that does not serve.
    """

    def __init__(
        self,
        config: KiviConfig,
        layout: CacheLayout,
        heads: int,
        query_heads: int,
        max_seqs: int,
        max_tokens: int,
        max_model_len: int,
        queries: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.heads = heads
        self._max_model_len = max_model_len
        self._processors = processors_of(device.index or 0)
        few = max_seqs * queries
        d = layout.head_size
        self.few_query = torch.empty(few, query_heads, d, dtype=torch.float32, device=device)
        self.spare = torch.empty(max_tokens, query_heads, d, dtype=dtype, device=device)
        self.key = torch.empty(max_tokens, heads, d, dtype=dtype, device=device)
        self.value = torch.empty(max_tokens, heads, d, dtype=dtype, device=device)
        self.slab: Slab | None = None
        reach = flash_reach(config, d)
        if reach is not None:
            units = slab_units(reach, heads, d, max_seqs, max_tokens, max_model_len)
            self.slab = new_slab(config, units, heads, d, dtype, device)
        most = max(rows * queries * (1 + self.splits(rows)) for rows in range(1, max_seqs + 1))
        self.scratch = new_scratch(layout, max_seqs, most, heads, query_heads, device)

    def restore(self) -> None:
        """Put back what scratch must hold between steps, after its memory was given away and taken again."""
        self.scratch.arrived.zero_()
        if self.slab is not None:
            self.slab.restore()

    def staged(self, tokens: int) -> Pair:
        """Keys and values of a step's tokens as the attention reads them."""
        return self.key[:tokens], self.value[:tokens]

    def splits(self, rows: int) -> int:
        """Splits of a step of that many rows; the same for every step of a CUDA graph."""
        return int(split_count(rows, self.heads, self._max_model_len, self._processors))


_OF_ENGINE: weakref.WeakValueDictionary[tuple[Any, ...], Workspace] = weakref.WeakValueDictionary()


def workspace_of(
    vllm_config: Any,
    config: KiviConfig,
    layout: CacheLayout,
    heads: int,
    query_heads: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Workspace:
    """The workspace that an engine's layers of this shape share; its layers keep it alive."""
    key = (id(vllm_config), layout, heads, query_heads, dtype, device)
    found = _OF_ENGINE.get(key)
    if found is None:
        scheduler = vllm_config.scheduler_config
        found = Workspace(
            config,
            layout,
            heads,
            query_heads,
            scheduler.max_num_seqs,
            scheduler.max_num_batched_tokens,
            vllm_config.model_config.max_model_len,
            1 + draft_tokens(vllm_config),
            dtype,
            device,
        )
        _OF_ENGINE[key] = found
    return found
