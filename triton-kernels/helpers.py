"""Device functions that the kernels share: rows of a batch, codes, zeros and scales of a page.

Everything element-wise is float32 or an integer; narrow types appear only as operands of ``tl.dot``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from vllm_kivi.layout import CacheLayout

KEY_GROUPS = (32, 64, 128, 256)
"""Key groups the kernels are built for: tiles are powers of two and the contraction of a dot is at least 16."""

PER_ROW = ["query_start", "seq_lens", "block_table", "slots", "readable_from", "slot_mapping"]
"""Arguments that are parts of a batch's tensors: kernels must not be compiled anew for where a part begins."""

INTERPRETED = bool(triton.knobs.runtime.interpret)
INTERPRETING = tl.constexpr(INTERPRETED)
"""The same for kernels."""

_F32_EXPONENT_SHIFT = tl.constexpr((127 - 15) << 23)
_F16_INTEGER_BITS = tl.constexpr(0x6400)  # 2^10 as float16: its mantissa counts in ones
_F16_INTEGER = tl.constexpr(1024.0)


def dot_type(dtype: torch.dtype) -> tl.dtype:
    """The type of ``tl.dot`` operands for tensors of this dtype.

    Triton's interpreter multiplies the bit patterns of bfloat16 as integers, so it gets float32.
    """
    if dtype == torch.float16:
        return tl.float16
    return tl.bfloat16 if dtype == torch.bfloat16 and not INTERPRETED else tl.float32


@functools.cache
def processors_of(device: int | None) -> int:
    """Streaming multiprocessors of a GPU; 1 without one (None)."""
    return 1 if device is None else int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def overlaps() -> bool:
    """Whether a launch may start while the one before it ends (programmatic dependent launch)."""
    if INTERPRETED:
        return False
    target = triton.runtime.driver.active.get_current_target()
    return target.backend == "cuda" and target.arch >= 90


WIDE_DOT = tl.constexpr(dot_type(torch.bfloat16))
"""Operands that float16 might not hold."""


def check_layout(layout: CacheLayout) -> None:
    """Raises ValueError for a layout that the kernels are not built for."""
    if layout.key_group not in KEY_GROUPS:
        raise ValueError(f"key_group is {layout.key_group}; the Triton kernels are built for {KEY_GROUPS}")


@triton.constexpr_function
def layout_of(SPEC):
    """The layout of a kernel's constexpr: plain text, because Triton's compile hooks write constexprs as JSON."""
    return CacheLayout(*[int(size) for size in SPEC.split(":")])


# --- rows of a batch --------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Rows of a step, on the device.

    Attributes:
        query_start: int32 [B + 1], first token of each row, and the end.
        seq_lens: int32 [B], tokens of each row, this step's included.
        block_table: int32 [B, blocks of a row].
        slots: int32 [B], rows of the rings.
        readable_from: int32 [B], tokens below exist only quantized.
    """

    query_start: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slots: torch.Tensor
    readable_from: torch.Tensor


@triton.jit
def row_of(tile, query_start, rows, TOKENS: tl.constexpr):
    """Row and first token (of the row) of a tile, where every row takes start // TOKENS + row as its first tile.

    So each row has at least cdiv(its tokens, TOKENS) tiles and the grid is bounded by tokens // TOKENS + rows; tiles
    past a row's end get a first token past it.
    """
    low = 0
    high = rows - 1
    while low < high:
        middle = (low + high + 1) // 2
        if tl.load(query_start + middle) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle - 1
    return low, (tile - tl.load(query_start + low) // TOKENS - low) * TOKENS


# --- codes ------------------------------------------------------------------------------------------------------------


def _unpack_asm(bits: int) -> str:
    """PTX from four packed bytes ($last) to 8 / bits parts of four float16 each, two registers a part."""
    parts = 8 // bits
    lines = [".reg .b32 even, odd, one;", "mov.b32 one, 0x64006400;"]
    lines += [f"prmt.b32 even, ${2 * parts}, 0, 0x4140;", f"prmt.b32 odd, ${2 * parts}, 0, 0x4342;"]
    for part in range(parts):
        mask = ((1 << bits) - 1) << (bits * part)
        for i, source in enumerate(("even", "odd")):
            to = f"${2 * part + i}"
            lines.append(f"lop3.b32 {to}, {source}, {mask | mask << 16:#010x}, one, 0xEA;")  # (source & mask) | one
            lines.append(f"sub.rn.f16x2 {to}, {to}, one;")
    return "{ " + " ".join(lines) + " }"


_UNPACK_4 = tl.constexpr(_unpack_asm(4))
_UNPACK_2 = tl.constexpr(_unpack_asm(2))


@triton.jit
def unpack(packed, BITS: tl.constexpr):
    """All codes of each byte: a tuple of 8 / BITS float16 tensors; part i holds its code times 2^(BITS * i), exactly.

    The code stays where it lies in the byte and becomes a float by or-ing it into the mantissa of 2^10, without an
    integer-to-float conversion; :func:`part_scale` undoes the factor where a scale is applied.
    """
    tl.static_assert(BITS == 2 or BITS == 4, "codes have 2 or 4 bits")
    # One chain of branches: Triton compiles what follows a branch that returns.
    if INTERPRETING:
        parts = ()
        for i in tl.static_range(8 // BITS):
            code = (packed & (((1 << BITS) - 1) << (BITS * i))).to(tl.int16)
            parts += ((code | _F16_INTEGER_BITS).to(tl.float16, bitcast=True) - _F16_INTEGER,)
        return parts
    elif BITS == 4:  # noqa: RET505
        return tl.inline_asm_elementwise(
            _UNPACK_4, "=r,=r,=r,=r,r", [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    else:
        return tl.inline_asm_elementwise(
            _UNPACK_2,
            "=r,=r,=r,=r,=r,=r,=r,=r,r",
            [packed],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )


@triton.constexpr_function
def part_scale(PART, BITS):
    """2^-(BITS * PART), the inverse of :func:`unpack`'s factor."""
    return 2.0 ** -(BITS * PART)


# --- zero and scale: three bytes, see layout.py -----------------------------------------------------------------------


@triton.jit
def encode(zero, scale):
    """Three-byte form of float32 zero and scale: int32 values of the uint16 and the uint8; bits of reference.encode."""
    bits = tl.minimum(tl.maximum(zero, -65408.0), 65408.0).to(tl.int32, bitcast=True)
    magnitude = ((bits & 0x7FFFFFFF) + (1 << 14)) >> 15
    magnitude = tl.minimum(magnitude - (_F32_EXPONENT_SHIFT >> 15), 0x1EFF)
    magnitude = tl.where(magnitude < (1 << 8), 0, magnitude)
    zero_bits = ((bits >> 16) & 0x8000) | (magnitude << 2)
    code = tl.minimum(tl.maximum(scale, 0.00006103515625), 64512.0).to(tl.int32, bitcast=True)  # 2^-14
    code = tl.minimum(((code + (1 << 17)) >> 18) - (_F32_EXPONENT_SHIFT >> 18), 0x3DF)
    return zero_bits | (code & 3), code >> 2


@triton.jit
def decode_zero(zero_bits):
    """Float32 zero of the uint16's value (int32)."""
    magnitude = (zero_bits & 0x7FFC) << 13
    magnitude = tl.where(magnitude == 0, 0, magnitude + _F32_EXPONENT_SHIFT)
    return (magnitude | ((zero_bits & 0x8000) << 16)).to(tl.float32, bitcast=True)


@triton.jit
def decode_scale(zero_bits, scale_bits):
    """Float32 scale of the uint16's and the uint8's value (int32)."""
    return ((((scale_bits << 2) | (zero_bits & 3)) << 18) + _F32_EXPONENT_SHIFT).to(tl.float32, bitcast=True)


@triton.jit
def load_pairs(zeros, scales, offsets, mask):
    """Float32 zeros and scales at ``offsets`` of two sections of a record (uint16 and uint8 pointers)."""
    zero_bits = tl.load(zeros + offsets, mask=mask, other=0).to(tl.int32)
    scale_bits = tl.load(scales + offsets, mask=mask, other=0).to(tl.int32)
    return decode_zero(zero_bits), decode_scale(zero_bits, scale_bits)
