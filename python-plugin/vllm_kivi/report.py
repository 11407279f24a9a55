"""What the cache costs and holds, in numbers: one line a worker, for people, ``kivi serve`` and ``kivi bench``."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from vllm_kivi.compat.facts import draft_tokens
from vllm_kivi.layout import staged_bytes
from vllm_kivi.settings import config_of, kivi_layers

logger = logging.getLogger("vllm.vllm_kivi")

MARK = "KIVI_REPORT "

PLAIN_BLOCK_SIZE = 16
"""Tokens of a block of vLLM's own cache, when it is alone."""


def cache_memory_bytes(vllm_config: Any) -> int:
    """Bytes that the user lets this worker spend on the KV cache, staging included."""
    explicit = vllm_config.cache_config.kv_cache_memory_bytes
    if explicit is not None:
        return int(explicit)
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory() * vllm_config.cache_config.gpu_memory_utilization)


def staging_bytes_per_sequence(vllm_config: Any) -> int:
    """Bytes of one slot in the rings of every KIVI layer of this worker."""
    from vllm.platforms import current_platform

    from vllm_kivi.cache.staging import ring_dtype

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    head_size = model.get_head_size()
    return config_of(vllm_config).staging_bytes_per_sequence(
        model.get_num_kv_heads(parallel),
        head_size * ring_dtype(model.dtype).itemsize if current_platform.is_cpu() else staged_bytes(head_size),
        kivi_layers(vllm_config),
        draft_tokens(vllm_config),
    )


def staging_bytes(vllm_config: Any) -> int:
    """Bytes of all rings of this worker: ``max_num_seqs`` slots and one of scratch."""
    return staging_bytes_per_sequence(vllm_config) * (int(vllm_config.scheduler_config.max_num_seqs) + 1)


def log_report(vllm_config: Any, kv_cache_config: Any) -> None:
    """Log the line ``KIVI_REPORT {json}``.

    ``layers`` and the bytes per token are of the KIVI layers, ``plain_layers`` keep vLLM's own cache; ``page_bytes`` is
    one block in all layers. ``tokens`` is vLLM's own block count times the block size; beside layers with a sliding
    window, whose blocks come from the same pool, what vLLM holds in sequences of the greatest length.
    ``rank`` is of tensor parallel within one engine, ``data_parallel_rank`` tells the engines of a server apart.
    """
    from vllm.distributed import get_tensor_model_parallel_rank

    from vllm_kivi.cache.spec import KiviFullAttentionSpec
    from vllm_kivi.compat.specs import pool_bytes, token_capacity

    specs = _layer_specs(kv_cache_config)
    ours = [spec for spec in specs if isinstance(spec, KiviFullAttentionSpec)]
    config, spec = config_of(vllm_config), ours[0]
    blocks, staging = kv_cache_config.num_blocks, staging_bytes(vllm_config)
    pool = pool_bytes(kv_cache_config)
    several = len(kv_cache_config.kv_cache_groups) > 1
    line = {
        "version": 1,
        **config.describe(),
        "value_group": config.value_group_for(spec.head_size),
        "rank": get_tensor_model_parallel_rank(),
        # Not data_parallel_rank: vLLM sets that to 0 in every engine of a dense model.
        "data_parallel_rank": vllm_config.parallel_config.data_parallel_index,
        "block_size": spec.block_size,
        "num_blocks": blocks,
        "page_bytes": pool // blocks,
        "layers": len(ours),
        "plain_layers": len(specs) - len(ours),
        "bytes_per_token": sum(s.page_size_bytes for s in ours) / spec.block_size,
        "bf16_bytes_per_token": sum(2 * s.num_kv_heads * s.head_size * 2 for s in ours),
        "tokens": token_capacity(vllm_config, kv_cache_config) if several else blocks * spec.block_size,
        "bf16_tokens": _bf16_tokens(specs, pool + staging, spec.block_size, vllm_config),
        "staging_slots": vllm_config.scheduler_config.max_num_seqs,
        "staging_bytes": staging,
    }
    logger.info("%s%s", MARK, json.dumps(line))


def _layer_specs(kv_cache_config: Any) -> list[Any]:
    """The spec of every layer: a group of layers whose pages differ in size has one for each."""
    groups = [(group.kv_cache_spec, group.layer_names) for group in kv_cache_config.kv_cache_groups]
    return [getattr(spec, "kv_cache_specs", {}).get(name, spec) for spec, names in groups for name in names]


def _bf16_tokens(specs: list[Any], memory: int, block_size: int, vllm_config: Any) -> int:
    """Tokens that the same layers would hold in bf16 in ``memory`` bytes, counted as ``tokens`` is."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    plain = [
        replace(spec, dtype=torch.bfloat16, block_size=PLAIN_BLOCK_SIZE, page_size_padded=None)
        if isinstance(spec, SlidingWindowSpec)
        else FullAttentionSpec(
            block_size=block_size, num_kv_heads=spec.num_kv_heads, head_size=spec.head_size, dtype=torch.bfloat16
        )
        for spec in specs
    ]
    if any(isinstance(spec, SlidingWindowSpec) for spec in plain):
        sequence = sum(spec.max_memory_usage_bytes(vllm_config) for spec in plain)
        return int(memory * vllm_config.model_config.max_model_len // sequence)
    return int(memory // sum(spec.page_size_bytes for spec in plain) * block_size)
