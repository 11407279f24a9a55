"""KIVI's decode: ``attend_few``, by decode.cu or by the Triton kernels.

The query's rotation belongs to the kernel that stores the step's token and is not timed; rotating the output back is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kivi_bench.kernels import footprint
from kivi_bench.kernels.shapes import HEAD_SIZE, KV_HEADS, MAX_MODEL_LEN, Shape
from kivi_bench.kernels.subject import DTYPE, SCALE, Step, UnsupportedError, block_table, blocks_of, repeat_blocks

_BLOCK = footprint.KIVI_BLOCK
_FILLED = 256
"""Pages that are made; the others are copies."""


class Kivi:
    """A preset's kernels.

    Args:
        compiled: decode.cu; the Triton kernel otherwise.
        folder: of the kernels, for what the result says of them.
    """

    tolerance = 0.0  # not compared here: see Step.expected

    def __init__(self, preset: str, compiled: bool, folder: Path) -> None:
        from vllm_kivi.config import PRESETS
        from vllm_kivi.kernels import attend

        self.config = PRESETS[preset]
        self.layout = self.config.layout(HEAD_SIZE, _BLOCK)
        self.windows = attend.windows_of(self.config)
        self.compiled, self.folder = compiled, folder
        self.bytes_per_token = self.layout.bytes_per_token

    def bytes_read(self, shape: Shape) -> int:
        return footprint.kivi(shape, self.config)

    def bytes_held(self, shape: Shape) -> int:
        from vllm_kivi.layout import staged_bytes

        pages = blocks_of(shape, _BLOCK) * self.layout.page_bytes(KV_HEADS)
        rings = self.config.staging_bytes_per_sequence(KV_HEADS, staged_bytes(HEAD_SIZE)) * (shape.batch + 1)
        scratch = 4 * shape.batch * shape.query_heads * (1 + self._splits(shape)) * (HEAD_SIZE + 1)
        return int(pages + rings + scratch)

    def prepare(self, shape: Shape) -> Step:
        from vllm_kivi.kernels.decode import takes
        from vllm_kivi.kernels.few import attend_few, new_plan, new_scratch, plan_few
        from vllm_kivi.kernels.helpers import Batch

        if self.compiled and not takes(self.layout, self.windows, shape.ratio):
            raise UnsupportedError("decode.cu is not built for this shape, or NVRTC cannot be loaded")
        batch = shape.batch
        pages = self._pages(shape)
        rings = (
            self._ring(batch, self.config.key_staging_tokens()),
            self._ring(batch, self.config.value_staging_tokens()),
        )
        device = pages.device
        rows = Batch(
            torch.arange(batch + 1, dtype=torch.int32, device=device),
            torch.full((batch,), shape.context, dtype=torch.int32, device=device),
            block_table(shape, _BLOCK),
            torch.arange(batch, dtype=torch.int32, device=device),
            torch.zeros(batch, dtype=torch.int32, device=device),
        )
        query = torch.randn(batch, shape.query_heads, HEAD_SIZE, device=device)
        out = torch.empty(batch, shape.query_heads, HEAD_SIZE, dtype=DTYPE, device=device)
        splits = self._splits(shape)
        scratch = new_scratch(self.layout, batch, batch * (1 + splits), KV_HEADS, shape.query_heads, device)
        plan = None
        if self.compiled:  # once a step, for all layers
            plan = new_plan(self.layout, batch, KV_HEADS, device)
            nowhere = torch.full((batch,), -1, dtype=torch.int64, device=device)  # so that no row closes a group
            plan_few(self.layout, self.windows, plan, rows, nowhere, KV_HEADS)

        def run() -> None:
            attend_few(
                self.layout, self.windows, out, query, pages, rows, *rings, SCALE, scratch, splits, 1, DTYPE,
                self.config.rotation, plan,
            )  # fmt: skip

        return Step(run, out)

    def _splits(self, shape: Shape) -> int:
        from vllm_kivi.kernels.attend import split_count
        from vllm_kivi.kernels.helpers import processors_of

        processors = processors_of(torch.cuda.current_device())
        return int(split_count(shape.batch, KV_HEADS, max(MAX_MODEL_LEN, shape.context), processors))

    def _pages(self, shape: Shape) -> torch.Tensor:
        """Random codes; zeros of 0.125 to 0.25 with either sign, scales of 2^-5 to 2^-4."""
        layout: Any = self.layout
        pages = torch.empty(blocks_of(shape, _BLOCK), KV_HEADS, layout.record_bytes, dtype=torch.uint8, device="cuda")
        made = pages[:_FILLED]
        made.copy_(torch.randint(0, 256, made.shape, dtype=torch.uint8, device="cuda"))
        # A zero's uint16 (little endian) is sign, 5 exponent bits, 8 of the mantissa, 2 of the scale's.
        high = made[..., layout.key_zeros_offset + 1 : layout.key_scales_offset : 2]
        high.bitwise_and_(0x83).bitwise_or_((15 - 3) << 2)
        # A scale's byte is its 5 exponent bits and the upper 3 of its mantissa.
        scales = made[..., layout.key_scales_offset :]
        scales.bitwise_and_(0x07).bitwise_or_((15 - 5) << 3)
        repeat_blocks(pages, made.shape[0])
        return pages

    def _ring(self, batch: int, tokens: int) -> torch.Tensor:
        """Random codes with an exponent of 2^-7: values between -1 and 1."""
        from vllm_kivi.layout import staged_bytes

        shape = (batch + 1, KV_HEADS, tokens, staged_bytes(HEAD_SIZE))
        ring = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
        ring[..., HEAD_SIZE:] = 127 - 7
        return ring
