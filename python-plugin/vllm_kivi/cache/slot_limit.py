"""How many sequences may keep rings: staging is paid from the cache's memory, and grows with ``max_num_seqs``."""

from __future__ import annotations

import logging
from typing import Any

from vllm_kivi.compat.facts import decode_graph_rows, draft_tokens
from vllm_kivi.config import ConfigError
from vllm_kivi.report import cache_memory_bytes, staging_bytes_per_sequence
from vllm_kivi.settings import config_of, kivi_layers

logger = logging.getLogger("vllm.vllm_kivi")

STAGING_SHARE = {"cpu": 4, "cuda": 20}
"""Staging may take one part in this many of the memory whatever the sequences' length.

On a GPU vLLM's default is up to 1024 sequences, whose rings would take a tenth of the memory on most models.
"""

TYPICAL_TOKENS = 2048
TYPICAL_SEQUENCES = 256
"""A GPU with little memory has slots for as many sequences of TYPICAL_TOKENS as it holds, at most for this many.

A twentieth of 5 GiB are the rings of 27 sequences of Llama-8B, where 60 of that length fit: a server is as fast as the
fewer of the two.
"""


def limit_sequences(vllm_config: Any) -> None:
    """Lower ``max_num_seqs`` to what staging can be paid for, with a warning.

    Raises:
        ConfigError: not one sequence's rings fit.
    """
    from vllm.platforms import current_platform

    memory, slot = cache_memory_bytes(vllm_config), staging_bytes_per_sequence(vllm_config)
    share = STAGING_SHARE["cpu" if current_platform.is_cpu() else "cuda"]
    slots = memory // share // slot - 1  # one more is scratch
    limit = f"staging is limited to 1/{share} of the memory ({memory / 1e9:.2f} GB)"
    # Otherwise the memory holds the weights too, which are not known yet.
    if not current_platform.is_cpu() and vllm_config.cache_config.kv_cache_memory_bytes is not None:
        tokens = min(TYPICAL_TOKENS, vllm_config.model_config.max_model_len)
        typical = typical_slots(memory, slot, tokens * _token_bytes(vllm_config))
        if typical > slots:
            slots, limit = typical, f"{memory / 1e9:.2f} GB hold that many sequences of {tokens} tokens"
    if slots < 1:
        raise ConfigError(
            f"KIVI refuses: the open group of one sequence takes {slot} bytes of staging and "
            f"the cache memory is {memory} bytes; raise --kv-cache-memory-bytes to at least {2 * slot * share}"
        )
    scheduler = vllm_config.scheduler_config
    if slots < scheduler.max_num_seqs:
        slots = whole_graph(slots, decode_graph_rows(vllm_config))
        _warn(vllm_config, slots, slot, limit)
        scheduler.max_num_seqs = slots


def typical_slots(memory: int, slot: int, sequence: float) -> int:
    """Slots such that each has memory for its rings and a sequence's pages; the rings of one more are scratch.

    Args:
        memory, slot, sequence: bytes, of everything, of one slot's rings and of one sequence's pages.
    """
    return min(TYPICAL_SEQUENCES, int((memory - slot) // (slot + sequence)))


def whole_graph(slots: int, captured: list[int]) -> int:
    """The most of ``slots`` for which a decode step of all of them has a CUDA graph.

    vLLM captures none for more sequences than ``max_num_seqs``, so that above the last size below it a step, which is
    to be padded to the next, runs without: twice as long with few sequences.

    Args:
        captured: sequences of each graph, in any order; above the largest vLLM runs without a graph anyway.
    """
    below = [rows for rows in captured if rows <= slots]
    return max(below) if below and slots < max(captured) else slots


def _token_bytes(vllm_config: Any) -> float:
    model, cache = vllm_config.model_config, vllm_config.cache_config
    layout = config_of(vllm_config).layout(model.get_head_size(), cache.block_size)
    heads = model.get_num_kv_heads(vllm_config.parallel_config)
    return layout.bytes_per_token * int(heads) * kivi_layers(vllm_config)


def _warn(vllm_config: Any, slots: int, slot: int, limit: str) -> None:
    config, drafts = config_of(vllm_config), draft_tokens(vllm_config)
    logger.warning(
        "KIVI lowers max_num_seqs from %d to %d: each sequence keeps its newest tokens (%d keys, %d values a layer and "
        "head) in %.2f MB of staging, and %s. Raise --kv-cache-memory-bytes or --gpu-memory-utilization for more "
        "sequences.",
        vllm_config.scheduler_config.max_num_seqs, slots, config.key_staging_tokens(drafts),
        config.value_staging_tokens(drafts), slot / 1e6, limit,
    )  # fmt: skip
