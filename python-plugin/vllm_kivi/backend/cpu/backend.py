"""The attention backend class that vLLM sees on the CPU platform; one class for each format and head size."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from vllm.v1.attention.backend import AttentionBackend, AttentionType, MultipleOf

from vllm_kivi.backend.cpu.impl import KiviCpuImpl
from vllm_kivi.backend.metadata import KiviMetadataBuilder
from vllm_kivi.config import is_kivi_dtype
from vllm_kivi.layout import CacheLayout


class KiviCpuBackend(AttentionBackend):
    """Packed pages of uint8 [blocks, KV heads, record bytes]."""

    forward_includes_kv_cache_update = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    block_size: ClassVar[int]
    record_bytes: ClassVar[int]
    """vLLM hands :meth:`get_kv_cache_shape` sizes but no settings, so the class carries them."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"  # vLLM looks the name up in its enum of backends

    @classmethod
    def get_supported_kernel_block_sizes(cls) -> list[int | MultipleOf]:
        return [cls.block_size]

    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype: str | None) -> bool:
        return is_kivi_dtype(kv_cache_dtype)

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER

    @staticmethod
    def get_impl_cls() -> type[KiviCpuImpl]:
        return KiviCpuImpl

    @staticmethod
    def get_builder_cls() -> type[KiviMetadataBuilder]:
        return KiviMetadataBuilder

    @classmethod
    def get_kv_cache_shape(
        cls, num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        if block_size != cls.block_size:
            raise ValueError(f"KIVI pages hold {cls.block_size} tokens, vLLM asks for {block_size}")
        return num_blocks, num_kv_heads, cls.record_bytes


def class_path(layout: CacheLayout) -> str:
    """Dotted path of the backend class of a page layout."""
    return f"{__name__}.KiviCpuBackend_{layout.block_size}_{layout.record_bytes}"


@functools.cache
def _backend(name: str, block_size: int, record_bytes: int) -> type[KiviCpuBackend]:
    return type(
        name, (KiviCpuBackend,), {"block_size": block_size, "record_bytes": record_bytes, "__module__": __name__}
    )


def __getattr__(name: str) -> type[KiviCpuBackend]:
    # vLLM resolves a backend by its dotted path, so the two numbers travel in the class name.
    parts = name.split("_")
    if len(parts) == 3 and parts[0] == "KiviCpuBackend" and parts[1].isdigit() and parts[2].isdigit():
        return _backend(name, int(parts[1]), int(parts[2]))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
