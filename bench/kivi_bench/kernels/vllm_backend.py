"""vLLM's quantized caches through their own attention backends: layout, store and decode are vLLM's.

``int4_per_token_head`` is of the Triton backend, ``turboquant_*`` has one of its own. Tokens are stored by the backend,
so that scales are what they are in serving; then those blocks are copied until the cache is full.
"""

from __future__ import annotations

from types import SimpleNamespace
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

_STORED = 512
"""Blocks that are stored; the others are copies."""

_CACHE_DTYPES = {
    "int4_per_token_head": ("vllm.v1.attention.backends.triton_attn", "TritonAttentionBackend"),
    "turboquant_4bit_nc": ("vllm.v1.attention.backends.turboquant_attn", "TurboQuantAttentionBackend"),
    "turboquant_k8v4": ("vllm.v1.attention.backends.turboquant_attn", "TurboQuantAttentionBackend"),
}


class VllmBackend:
    """One of vLLM's caches.

    Args:
        cache_dtype: vLLM's name of it.
    """

    tolerance = 0.25  # 0.13 to 0.14 with random keys and values; garbage is at 1 or more

    def __init__(self, cache_dtype: str) -> None:
        import importlib

        module, name = _CACHE_DTYPES[cache_dtype]
        try:
            self._backend: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UnsupportedError(f"this vLLM has no {cache_dtype}: {error}") from error
        if cache_dtype not in self._backend.supported_kv_cache_dtypes:
            raise UnsupportedError(f"this vLLM's {name} has no {cache_dtype}")
        from vllm.config import VllmConfig

        # Registers what the kernels call of vLLM's compiled operations.
        import vllm._custom_ops  # noqa: F401  # isort: skip

        self.cache_dtype, self._config = cache_dtype, VllmConfig()
        self.bytes_per_token = float(self._shape(1)[-1])

    def bytes_read(self, shape: Shape) -> int:
        return footprint.flat(shape, self.bytes_per_token)

    def bytes_held(self, shape: Shape) -> int:
        cache = blocks_of(shape, PAGE) * PAGE * KV_HEADS * self.bytes_per_token
        partial = 4 * 32 * shape.batch * shape.query_heads * (HEAD_SIZE + 1)
        return round(cache + partial)

    def _shape(self, blocks: int) -> tuple[int, ...]:
        return tuple(self._backend.get_kv_cache_shape(blocks, PAGE, KV_HEADS, HEAD_SIZE, self.cache_dtype))

    def _empty_cache(self, blocks: int) -> torch.Tensor:
        """uint8, of the backend's logical shape over its physical order, as vLLM's model runner makes it."""
        shape = self._shape(blocks)
        try:
            order = tuple(self._backend.get_kv_cache_stride_order())
        except (AttributeError, NotImplementedError):
            order = tuple(range(len(shape)))
        physical = torch.zeros([shape[i] for i in order], dtype=torch.uint8, device="cuda")
        return physical.permute([order.index(i) for i in range(len(order))])

    def prepare(self, shape: Shape) -> Step:
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self._config):
            return self._prepare(shape)

    def _prepare(self, shape: Shape) -> Step:
        batch = shape.batch
        impl = self._backend.get_impl_cls()(
            num_heads=shape.query_heads,
            head_size=HEAD_SIZE,
            scale=SCALE,
            num_kv_heads=KV_HEADS,
            alibi_slopes=None,
            sliding_window=None,
            kv_cache_dtype=self.cache_dtype,
        )
        layer = SimpleNamespace()  # the backends keep constants on it
        cache = self._empty_cache(blocks_of(shape, PAGE))
        stored = min(_STORED, cache.shape[0])
        tokens = stored * PAGE
        keys, values = (torch.randn(tokens, KV_HEADS, HEAD_SIZE, device="cuda").to(DTYPE) for _ in range(2))
        slots = torch.arange(tokens, device="cuda")
        impl.do_kv_cache_update(layer, keys, values, cache, slots)
        repeat_blocks(cache, stored)
        table = block_table(shape, PAGE)
        query = random_query(shape)
        out = torch.empty(batch, shape.query_heads, HEAD_SIZE, dtype=DTYPE, device="cuda")
        metadata = self._metadata(shape, table)

        def run() -> None:
            impl.forward(layer, query, None, None, cache, metadata, out)

        def expected() -> torch.Tensor:
            if cache.shape[0] > stored:
                raise ValueError(f"{shape.name}: only {stored} blocks hold keys that are known")
            rows = [
                x.view(stored, PAGE, KV_HEADS, HEAD_SIZE)[table.long()].reshape(batch, -1, KV_HEADS, HEAD_SIZE)
                for x in (keys, values)
            ]
            return plain_attention(query, *(x[:, : shape.context] for x in rows))

        return Step(run, out, expected)

    def _metadata(self, shape: Shape, table: torch.Tensor) -> Any:
        common: dict[str, Any] = {
            "num_actual_tokens": shape.batch,
            "max_query_len": 1,
            "max_seq_len": shape.context,
            "query_start_loc": torch.arange(shape.batch + 1, dtype=torch.int32, device="cuda"),
            "seq_lens": torch.full((shape.batch,), shape.context, dtype=torch.int32, device="cuda"),
            "block_table": table,
            "slot_mapping": torch.zeros(shape.batch, dtype=torch.int64, device="cuda"),
        }
        if self.cache_dtype.startswith("turboquant_"):
            from vllm.v1.attention.backends.turboquant_attn import TurboQuantMetadata

            return TurboQuantMetadata(
                **common, is_prefill=False, num_decodes=shape.batch, num_decode_tokens=shape.batch
            )
        from vllm.v1.attention.backends import triton_attn

        # The builder's choice with CUDA graphs: the captured batch size nearest to this, which is itself one.
        threshold = triton_attn.MIN_LAUNCH_GRID_SIZE_2D // KV_HEADS
        segments = triton_attn.NUM_PAR_SOFTMAX_SEGMENTS
        partial = (threshold, shape.query_heads, segments)
        return triton_attn.TritonAttentionMetadata(
            **common,
            seq_threshold_3D=threshold,
            num_par_softmax_segments=segments,
            softmax_segm_output=torch.empty(*partial, HEAD_SIZE, device="cuda"),
            softmax_segm_max=torch.empty(partial, device="cuda"),
            softmax_segm_expsum=torch.empty(partial, device="cuda"),
            causal=True,
            use_cascade=False,
            common_prefix_len=0,
            cu_prefix_query_lens=None,
            prefix_kv_lens=None,
            suffix_kv_lens=None,
        )
