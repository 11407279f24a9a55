"""What the cache costs and holds, in numbers: one line a worker, for people, ``kivi serve`` and ``kivi bench``."""

from __future__ import annotations

import json
import logging
from typing import Any

from vllm_kivi.layout import staged_bytes
from vllm_kivi.settings import config_of

logger = logging.getLogger("vllm.vllm_kivi")

MARK = "KIVI_REPORT "


def cache_memory_bytes(vllm_config: Any) -> int:
    """Bytes that the user lets this worker spend on the KV cache, staging included."""
    explicit = vllm_config.cache_config.kv_cache_memory_bytes
    if explicit is not None:
        return int(explicit)
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory() * vllm_config.cache_config.gpu_memory_utilization)


def staging_bytes_per_sequence(vllm_config: Any) -> int:
    """Bytes of one slot in the rings of every attention layer of this worker."""
    from vllm.platforms import current_platform

    from vllm_kivi.cache.staging import ring_dtype

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    head_size = model.get_head_size()
    return config_of(vllm_config).staging_bytes_per_sequence(
        model.get_num_kv_heads(parallel),
        head_size * ring_dtype(model.dtype).itemsize if current_platform.is_cpu() else staged_bytes(head_size),
        model.get_num_layers(parallel),
        vllm_config.num_speculative_tokens,
    )


def staging_bytes(vllm_config: Any) -> int:
    """Bytes of all rings of this worker: ``max_num_seqs`` slots and one of scratch."""
    return staging_bytes_per_sequence(vllm_config) * (int(vllm_config.scheduler_config.max_num_seqs) + 1)


def log_report(vllm_config: Any, kv_cache_config: Any) -> None:
    """Log the line ``KIVI_REPORT {json}``; ``tokens`` is vLLM's own block count times the block size."""
    from vllm.distributed import get_tensor_model_parallel_rank

    from vllm_kivi.cache.spec import KiviFullAttentionSpec

    ours = [g for g in kv_cache_config.kv_cache_groups if isinstance(g.kv_cache_spec, KiviFullAttentionSpec)]
    if not ours:
        raise RuntimeError("KIVI was asked for but no layer of this model keeps a KIVI cache")
    config, spec = config_of(vllm_config), ours[0].kv_cache_spec
    layers = sum(len(group.layer_names) for group in ours)
    page_bytes = layers * spec.page_size_bytes
    blocks, staging = kv_cache_config.num_blocks, staging_bytes(vllm_config)
    bf16 = layers * 2 * spec.num_kv_heads * spec.head_size * 2
    line = {
        "version": 1,
        **config.describe(),
        "value_group": config.value_group_for(spec.head_size),
        "rank": get_tensor_model_parallel_rank(),
        "block_size": spec.block_size,
        "num_blocks": blocks,
        "page_bytes": page_bytes,
        "layers": layers,
        "bytes_per_token": page_bytes / spec.block_size,
        "bf16_bytes_per_token": bf16,
        "tokens": blocks * spec.block_size,
        "bf16_tokens": (blocks * page_bytes + staging) // (bf16 * spec.block_size) * spec.block_size,
        "staging_slots": vllm_config.scheduler_config.max_num_seqs,
        "staging_bytes": staging,
    }
    logger.info("%s%s", MARK, json.dumps(line))
