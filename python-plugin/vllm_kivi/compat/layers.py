"""Hook on vLLM's attention layer: what its cache takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_kivi.compat.wrap import wrap


def hook_layers() -> None:
    """Raises IncompatibleError where vLLM's layer does not report its own cache."""
    from vllm.model_executor.layers.attention.attention import Attention

    wrap(Attention, "get_kv_cache_spec", _kv_cache_spec)


def _kv_cache_spec(original: Callable[..., Any], layer: Any, vllm_config: Any) -> Any:
    from vllm_kivi.config import is_kivi_dtype

    if not is_kivi_dtype(layer.kv_cache_dtype):
        return original(layer, vllm_config)
    import torch

    from vllm_kivi.cache.spec import KiviFullAttentionSpec
    from vllm_kivi.settings import config_of

    block_size = vllm_config.cache_config.block_size
    return KiviFullAttentionSpec(
        block_size=block_size,
        num_kv_heads=layer.num_kv_heads,
        head_size=layer.head_size,
        dtype=torch.uint8,
        record_bytes=config_of(vllm_config).layout(layer.head_size, block_size).record_bytes,
    )
