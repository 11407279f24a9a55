"""The attention backend as vLLM sees it, on all platforms."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from vllm.v1.attention.backend import AttentionBackend, AttentionType, MultipleOf

from vllm_kivi.config import is_kivi_dtype
from vllm_kivi.layout import CacheLayout


class KiviBackend(AttentionBackend):
    """Packed pages of uint8 [blocks, KV heads, record bytes]; one subclass for each page size."""

    forward_includes_kv_cache_update = True
    accept_output_buffer = True  # 0.16 and 0.18 ask; later ones always give one
    block_size: ClassVar[int]
    record_bytes: ClassVar[int]
    """vLLM hands :meth:`get_kv_cache_shape` sizes but no settings, so the class carries them."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"  # vLLM looks the name up in its enum of backends

    @classmethod
    def get_supported_kernel_block_sizes(cls, kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [cls.block_size]

    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype: str | None) -> bool:
        return is_kivi_dtype(kv_cache_dtype)

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER

    @classmethod
    def get_kv_cache_shape(
        cls, num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        if block_size != cls.block_size:
            raise ValueError(f"KIVI pages hold {cls.block_size} tokens, vLLM asks for {block_size}")
        return num_blocks, num_kv_heads, cls.record_bytes


def class_path(base: type[KiviBackend], layout: CacheLayout) -> str:
    """Dotted path of the subclass of a platform's backend for a page layout."""
    return f"{base.__module__}.{base.__name__}_{layout.block_size}_{layout.record_bytes}"


@functools.cache
def subclass(base: type[KiviBackend], name: str) -> type[KiviBackend]:
    """The class at a path of :func:`class_path`: vLLM resolves a backend by it, so the two numbers travel in its name.

    Raises:
        AttributeError: any other name.
    """
    parts = name.removeprefix(f"{base.__name__}_").split("_")
    if not name.startswith(f"{base.__name__}_") or len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise AttributeError(f"module {base.__module__!r} has no attribute {name!r}")
    sizes = {"block_size": int(parts[0]), "record_bytes": int(parts[1]), "__module__": base.__module__}
    return type(name, (base,), sizes)
