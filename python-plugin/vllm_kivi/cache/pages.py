"""Pages of one pool for a model that mixes KIVI layers with layers that keep vLLM's own cache.

Where every layer keeps all its tokens (``--kv-cache-dtype-skip-layers``), vLLM makes one group of layers whose pages
differ in size: equal block sizes suffice, and no byte is lost.

Layers with a sliding window have block tables of their own but share the pool, so a page takes the same bytes in every
layer. A page of vLLM's own cache then holds fewer tokens than ours and is padded up to our bytes. Its block size
divides ours: vLLM ends a prefix hit at a multiple of both, that is at the end of one of our blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm.v1.kv_cache_interface import AttentionSpec, FullAttentionSpec, KVCacheSpec, SlidingWindowSpec

from vllm_kivi.cache.spec import KiviFullAttentionSpec
from vllm_kivi.config import DEFAULT_BLOCK_SIZE, ConfigError, KiviConfig

LARGEST_BLOCK_SIZE = 640
"""Tokens; a larger block is never chosen by itself: prefix hits end at whole blocks."""

PADDING = 0.25
"""Part of a page that may be padding before a larger block size is tried."""


def block_step() -> int:
    """Tokens that the block sizes of vLLM's own attention are multiples of on this platform.

    The CPU backend picks its kernels by the engine's block size, ours, which is a multiple of 32; they take no other.
    """
    from vllm.platforms import current_platform

    return 32 if current_platform.is_cpu() else 16


def plain_block_size(
    page_bytes: int, token_bytes: int, block_size: int, step: int, supported: Callable[[int], bool] = lambda _: True
) -> int:
    """The most tokens of ``token_bytes`` that fit a page of ``page_bytes`` and whose number divides ``block_size``; 0
    where not even one ``step`` fits."""
    sizes = range(step, min(page_bytes // token_bytes, block_size) + 1, step)
    return max((size for size in sizes if block_size % size == 0 and supported(size)), default=0)


def block_size_beside_windows(config: KiviConfig, head_size: int, element_bytes: int, step: int) -> int:
    """The block size of KIVI layers, in tokens, beside layers with a sliding window of the same heads.

    The smallest from :data:`vllm_kivi.config.DEFAULT_BLOCK_SIZE` on under which at most :data:`PADDING` of the other
    layers' pages is padding, else the one with the least.
    """

    def padding(block_size: int) -> float:
        record = config.layout(head_size, block_size).record_bytes
        token = 2 * head_size * element_bytes
        return 1 - plain_block_size(record, token, block_size, step) * token / record

    sizes = range(max(DEFAULT_BLOCK_SIZE, config.key_group), LARGEST_BLOCK_SIZE + 1, config.key_group)
    return next((size for size in sizes if padding(size) <= PADDING), min(sizes, key=padding))


def fit_pages(specs: dict[str, KVCacheSpec], vllm_config: Any) -> dict[str, KVCacheSpec]:
    """The specs of a worker's layers, by name, such that vLLM can keep all of them in one pool.

    Raises:
        ConfigError: no layer is left for KIVI, or the pages cannot be made to fit.
    """
    ours = {name: spec for name, spec in specs.items() if isinstance(spec, KiviFullAttentionSpec)}
    if not ours:
        raise ConfigError(
            "KIVI refuses: every attention layer of this model has a sliding window or is named by "
            "--kv-cache-dtype-skip-layers and keeps vLLM's own cache; serve it without --kv-cache-dtype kivi_*"
        )
    plain: dict[str, AttentionSpec] = {}
    for name, spec in specs.items():
        if type(spec) in (FullAttentionSpec, SlidingWindowSpec):
            plain[name] = spec  # type: ignore[assignment]
        elif name not in ours:
            raise ConfigError(f"KIVI refuses: layer {name} keeps a cache of kind {type(spec).__name__}, not tested yet")
    block_size = next(iter(ours.values())).block_size
    windows = any(isinstance(spec, SlidingWindowSpec) for spec in plain.values())
    alone = vllm_config.scheduler_config.disable_hybrid_kv_cache_manager  # windows are then kept like all other tokens
    if (alone or not windows) and all(_takes(name, vllm_config)(block_size) for name in plain):
        return specs | {name: replace(spec, block_size=block_size) for name, spec in plain.items()}
    pages = {spec.page_size_bytes for spec in ours.values()}
    if len(pages) > 1:
        raise ConfigError(
            f"KIVI refuses: its layers have pages of {sorted(pages)} bytes, and beside layers that keep vLLM's own "
            "cache in groups of their own all pages must be equal; serve it without --kv-cache-dtype kivi_*"
        )
    page, step = pages.pop(), block_step()
    fitted: dict[str, KVCacheSpec] = {}
    for name, spec in plain.items():
        token_bytes = spec.real_page_size_bytes // spec.block_size
        size = plain_block_size(page, token_bytes, block_size, step, _takes(name, vllm_config))
        if not size:
            enough = -(-step * token_bytes * block_size // page // 128) * 128
            raise ConfigError(
                f"KIVI refuses: layer {name} keeps vLLM's own cache, where {step} tokens take {step * token_bytes} "
                f"bytes, and a KIVI page of {block_size} tokens has {page}; use --block-size {enough} or more"
            )
        fitted[name] = replace(spec, block_size=size, page_size_padded=page)
    return specs | fitted


def _takes(layer_name: str, vllm_config: Any) -> Callable[[int], bool]:
    """Whether a layer's attention reads blocks of so many tokens as they are: a padded page cannot be split."""
    from vllm.config import set_current_vllm_config
    from vllm.v1.worker.utils import select_common_block_size

    backend = vllm_config.compilation_config.static_forward_context[layer_name].get_attn_backend()

    def takes(block_size: int) -> bool:
        try:
            with set_current_vllm_config(vllm_config):
                return select_common_block_size(block_size, [backend]) == block_size
        except ValueError:
            return False

    return takes
