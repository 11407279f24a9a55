"""What this vLLM's configuration can say: settings that only some versions have, each probed for, never by version."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def keeps_skipped_layers(vllm_config: Any) -> bool:
    """Whether single layers may keep vLLM's own cache: seen in 0.20 to 0.32, not in 0.16 and 0.18."""
    return hasattr(vllm_config.cache_config, "kv_cache_dtype_skip_layers")


def skipped_layers(vllm_config: Any) -> list[str]:
    """Layers that keep vLLM's own cache (``--kv-cache-dtype-skip-layers``)."""
    return list(getattr(vllm_config.cache_config, "kv_cache_dtype_skip_layers", ()))


def prefix_match_unit(vllm_config: Any) -> int | None:
    """Tokens inside a block at which a prefix hit may end: a setting in 0.26 to 0.32."""
    unit: int | None = getattr(vllm_config.cache_config, "prefix_match_unit", None)
    return unit


def calculates_kv_scales(vllm_config: Any) -> bool:
    """``--calculate-kv-scales``, a setting in 0.16 to 0.26."""
    return bool(getattr(vllm_config.cache_config, "calculate_kv_scales", False))


def draft_tokens(vllm_config: Any) -> int:
    """Tokens drafted a step: a property of the configuration in 0.18 to 0.32."""
    if hasattr(vllm_config, "num_speculative_tokens"):
        return int(vllm_config.num_speculative_tokens)
    speculative = vllm_config.speculative_config
    return 0 if speculative is None else int(speculative.num_speculative_tokens)


def decode_graph_rows(vllm_config: Any) -> list[int]:
    """Sequences in each CUDA graph of a decode step, before vLLM leaves out those beyond ``max_num_seqs``."""
    tokens = 1 + draft_tokens(vllm_config)
    return [-(-size // tokens) for size in vllm_config.compilation_config.cudagraph_capture_sizes or ()]


def uses_v2_runner(vllm_config: Any) -> bool:
    """Whether vLLM takes its V2 model runner: the configuration says so in 0.22 to 0.32, before a variable."""
    if hasattr(vllm_config, "use_v2_model_runner"):
        return bool(vllm_config.use_v2_model_runner)
    from vllm import envs

    return bool(envs.VLLM_USE_V2_MODEL_RUNNER)


def given_block_size(vllm_config: Any) -> int | None:
    """The block size that was asked for; None where vLLM or we may choose.

    0.18 to 0.32 mark a size that was given, 0.16 leaves it None until the platform chooses.
    """
    cache = vllm_config.cache_config
    size: int | None = cache.block_size if getattr(cache, "user_specified_block_size", True) else None
    return size


def set_block_size(vllm_config: Any, size: int) -> None:
    """Choose the block size, so that the platform does not choose another."""
    cache = vllm_config.cache_config
    cache.block_size = size
    if hasattr(cache, "user_specified_block_size"):
        cache.user_specified_block_size = True


def honour_cache_memory(vllm_config: Any) -> None:
    """Let ``--kv-cache-memory-bytes`` count on the CPU builds of 0.16 and 0.18, which overlook it and take half of the
    machine's memory: staging is measured against that number, and vLLM's blocks have to be too."""
    cache = vllm_config.cache_config
    if hasattr(cache, "cpu_kvcache_space_bytes") and cache.kv_cache_memory_bytes is not None:
        cache.cpu_kvcache_space_bytes = cache.kv_cache_memory_bytes


def has_seams_of_0_26() -> bool:
    """Whether this vLLM is like 0.26, with which alone layers of mixed kinds were run: of those seen, no
    other has both of these settings."""
    from vllm.config import CacheConfig

    return {"prefix_match_unit", "calculate_kv_scales"} <= {field.name for field in fields(CacheConfig)}
