"""FlashAttention 3 as vLLM's backend calls it for decode, over a paged cache of bfloat16 or fp8 (e4m3)."""

from __future__ import annotations

from typing import Any

import torch

from kivi_bench.kernels import footprint
from kivi_bench.kernels.shapes import HEAD_SIZE, KV_HEADS, Shape
from kivi_bench.kernels.subject import (
    DTYPE,
    PAGE,
    SCALE,
    Step,
    UnsupportedError,
    block_table,
    blocks_of,
    plain_attention,
    random_query,
    repeat_blocks,
)

_SPLITS = 32
"""vLLM's ``flash_attn_max_num_splits_for_cuda_graph``: with CUDA graphs the number of splits has a bound."""

_FILLED = 4096
"""Blocks that are made; the others are copies."""


class Flash:
    """FlashAttention 3.

    Args:
        cache_dtype: of keys and values; with fp8 of the queries too, as in vLLM.
    """

    def __init__(self, cache_dtype: torch.dtype) -> None:
        try:
            from vllm import vllm_flash_attn as flash
        except ImportError as error:
            raise UnsupportedError(f"this vLLM has no FlashAttention: {error}") from error
        if not flash.is_fa_version_supported(3):
            raise UnsupportedError(f"FlashAttention 3: {flash.fa_version_unsupported_reason(3)}")
        self._flash: Any = flash
        self.cache_dtype = cache_dtype
        self.bytes_per_token = 2.0 * HEAD_SIZE * cache_dtype.itemsize
        self.tolerance = 0.02 if cache_dtype == DTYPE else 0.2

    def bytes_read(self, shape: Shape) -> int:
        return footprint.flat(shape, self.bytes_per_token)

    def bytes_held(self, shape: Shape) -> int:
        cache = blocks_of(shape, PAGE) * PAGE * KV_HEADS * self.bytes_per_token
        partial = 4 * _SPLITS * shape.batch * shape.query_heads * (HEAD_SIZE + 1)
        return round(cache + partial)

    def prepare(self, shape: Shape) -> Step:
        batch, fp8 = shape.batch, self.cache_dtype != DTYPE
        # vLLM's memory order: a head's key and value lie side by side.
        cache = torch.empty(
            blocks_of(shape, PAGE), PAGE, KV_HEADS, 2 * HEAD_SIZE, dtype=self.cache_dtype, device="cuda"
        )
        made = cache[:_FILLED]
        made.copy_(torch.randn(made.shape, device="cuda"))
        # Copied as bytes: not every operation knows fp8.
        repeat_blocks(cache.view(torch.uint8), made.shape[0])
        keys, values = cache.split(HEAD_SIZE, dim=-1)
        table = block_table(shape, PAGE)
        query = random_query(shape, self.cache_dtype)
        out = torch.empty(batch, shape.query_heads, HEAD_SIZE, dtype=DTYPE, device="cuda")
        query_start = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
        lengths = torch.full((batch,), shape.context, dtype=torch.int32, device="cuda")
        one = torch.ones(1, device="cuda").expand(batch, KV_HEADS)
        # Made once a step and used by all layers, hence not timed.
        schedule = self._flash.get_scheduler_metadata(
            batch_size=batch,
            max_seqlen_q=1,
            max_seqlen_k=shape.context,
            num_heads_q=shape.query_heads,
            num_heads_kv=KV_HEADS,
            headdim=HEAD_SIZE,
            cache_seqlens=lengths,
            qkv_dtype=self.cache_dtype,
            cu_seqlens_q=query_start,
            page_size=PAGE,
            causal=True,
            window_size=(-1, -1),
            num_splits=_SPLITS,
        )

        def run() -> None:
            self._flash.flash_attn_varlen_func(
                q=query,
                k=keys,
                v=values,
                out=out,
                cu_seqlens_q=query_start,
                max_seqlen_q=1,
                seqused_k=lengths,
                max_seqlen_k=shape.context,
                softmax_scale=SCALE,
                causal=True,
                window_size=[-1, -1],
                block_table=table,
                softcap=0.0,
                scheduler_metadata=schedule,
                fa_version=3,
                q_descale=one if fp8 else None,
                k_descale=one if fp8 else None,
                v_descale=one if fp8 else None,
                num_splits=_SPLITS,
            )

        def expected() -> torch.Tensor:
            rows = [
                part[table.long()].reshape(batch, -1, KV_HEADS, HEAD_SIZE)[:, : shape.context]
                for part in (keys.float(), values.float())
            ]
            return plain_attention(query, *rows)

        return Step(run, out, expected)
