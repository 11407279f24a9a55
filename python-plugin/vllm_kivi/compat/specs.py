"""How vLLM counts and shapes the pages of a layer, and who manages its blocks: differs between versions."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, TypeVar

import torch

Spec = TypeVar("Spec", bound=type)


def managed_as_full_attention(spec: Spec) -> Spec:
    """Class decorator of a cache spec: vLLM manages its blocks as those of full attention."""
    from vllm.v1.core import single_type_kv_cache_manager as managers
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    if find_spec("vllm.v1.kv_cache_spec_registry") is not None:  # seen in 0.24 to 0.32
        from vllm.v1.kv_cache_spec_registry import register_kv_cache_spec

        register_kv_cache_spec(managers.FullAttentionManager, FullAttentionSpec)(spec)
    else:  # 0.16 to 0.22 look the very class up
        managers.spec_manager_map[spec] = managers.FullAttentionManager  # type: ignore[attr-defined]
    return spec


class PackedPage:
    """Page bytes and shape of a spec whose page is one record a KV head, in the words of every version."""

    block_size: int
    num_kv_heads: int
    record_bytes: int

    @property
    def real_page_size_bytes(self) -> int:
        """What 0.16 to 0.26 count pages by."""
        return self.num_kv_heads * self.record_bytes

    @property
    def unpadded_page_size_bytes(self) -> int:
        """What 0.28 to 0.32 count pages by; in 0.26 it adds scales, of which a record has none beside it."""
        return self.real_page_size_bytes

    @property
    def state_content_size_bytes(self) -> int:
        """From 0.30 on vLLM shapes a page itself, [heads, states, bytes of a state]: ours is one state a head, since a
        record need not divide by its tokens."""
        return self.record_bytes

    def get_num_kernel_states(self, kernel_block_size: int) -> int:
        """Likewise (0.30 to 0.32)."""
        if kernel_block_size != self.block_size:
            raise ValueError(f"KIVI pages hold {self.block_size} tokens, vLLM asks for {kernel_block_size}")
        return 1


def pages_of(kv_cache: torch.Tensor) -> torch.Tensor:
    """Uint8 [blocks, H, record bytes] of a layer's cache, without a copy; from 0.30 on it has an axis of one state."""
    return kv_cache.flatten(2)


def pool_bytes(kv_cache_config: Any) -> int:
    """Bytes of all layers' caches together."""
    sizes = [int(tensor.size) for tensor in kv_cache_config.kv_cache_tensors]
    # From 0.30 on a tensor names the whole allocation that its layers are placed in.
    shared = any(hasattr(tensor, "layers") for tensor in kv_cache_config.kv_cache_tensors)
    return max(sizes) if shared else sum(sizes)


def token_capacity(vllm_config: Any, kv_cache_config: Any) -> int:
    """Tokens that the cache holds in sequences of the greatest length, as vLLM counts them."""
    from vllm.v1.core import kv_cache_utils

    if hasattr(kv_cache_utils, "get_kv_cache_capacity"):  # seen in 0.24 to 0.32
        return int(kv_cache_utils.get_kv_cache_capacity(vllm_config, kv_cache_config)[0])
    sequences = kv_cache_utils.get_max_concurrency_for_kv_cache_config(vllm_config, kv_cache_config)
    return int(sequences * vllm_config.model_config.max_model_len)
