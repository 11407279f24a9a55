"""Device functions that turn keys and values into codes, scales and zeros of a record. Meaning: ``reference.quantize``.

The bytes are identical to the reference's, ties of codes too.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from vllm_kivi.kernels.helpers import INTERPRETING, decode_scale, decode_zero, encode, load_pairs
from vllm_kivi.kernels.staging import load_staged, load_staged_rows, unstage_rows, unstage_rows_above
from vllm_kivi.layout import CacheLayout

KEY_SLICE = 8
"""Packed channels of a key group that a warp quantizes at a time: their tokens fit its registers."""


def key_slices(layout: CacheLayout) -> int:
    """Such parts of a token's packed channels."""
    return triton.cdiv(layout.key_code_bytes, KEY_SLICE)


_HEAD_ELEMENTS = tl.constexpr(1024)
"""Channels times tokens that a warp holds while it closes a whole head."""

_RAISE = tl.constexpr(2.0**23)


def value_span(layout: CacheLayout) -> int:
    """The most channel groups that one part of a token's channels (those at one place in a byte) meets."""
    size, width = layout.value_group, layout.value_code_rows
    parts = range(0, layout.head_size, width)
    return max((start + width - 1) // size - start // size + 1 for start in parts)


@triton.jit
def _raised_codes(above, inverse, TOP: tl.constexpr, SHIFT: tl.constexpr = 0):
    """Codes of what lies ``above`` the zero, halves rounded up, in units of 1 / (TOP + 1), plus 2^23 of these; float32.

    Plus 2^(23 - SHIFT) with a SHIFT, for codes that many bits higher in the mantissa, above bits of no meaning.

    Without floor and one of two comparisons, which are slow: adding nothing but a power of two's worth of places rounds
    towards zero, and what is between 0 and 1 costs nothing to clamp. The units are exact, so the codes are those of
    reference.quantize.
    """
    UNIT: tl.constexpr = 1.0 / (TOP + 1)
    place = above * (inverse * UNIT)
    if INTERPRETING:
        place = tl.minimum(tl.maximum(place + 0.5 * UNIT, 0.0), (TOP + 0.5) * UNIT)
        return tl.floor(place / UNIT) * UNIT + _RAISE / (1 << SHIFT) * UNIT
    else:  # noqa: RET505 -- Triton compiles what follows a branch that returns
        place = tl.inline_asm_elementwise(
            "add.sat.f32 $0, $1, $2;", "=f,f,f", [place, tl.full(place.shape, 0.5 * UNIT, tl.float32)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
        place = tl.minimum(place, (TOP + 0.5) * UNIT)
        return libdevice.add_rz(place, tl.full(place.shape, _RAISE / (1 << SHIFT) * UNIT, tl.float32))


@triton.jit
def codes_of(above, inverse, TOP: tl.constexpr):
    """Codes, int32, of what lies ``above`` the zero (float32)."""
    return _raised_codes(above, inverse, TOP).to(tl.int32, bitcast=True) & TOP


_PACK_CODES = tl.constexpr(
    "{ .reg .b32 t<4>; "
    + " ".join(f"lop3.b32 t{i}, ${1 + i}, ${5 + i}, 15, 0xE4;" for i in range(4))  # (low & 15) | (high & ~15)
    + " prmt.b32 t0, t0, t1, 0x0040; prmt.b32 t2, t2, t3, 0x0040; prmt.b32 $0, t0, t2, 0x5410; }"
)


@triton.jit
def _packed_codes(above0, inverse0, above1, inverse1):
    """Bytes, uint8, of two codes of four bits each; arguments as for :func:`codes_of`."""
    low, high = _raised_codes(above0, inverse0, 15), _raised_codes(above1, inverse1, 15, 4)
    if INTERPRETING:
        packed = (low.to(tl.int32, bitcast=True) & 15) | (high.to(tl.int32, bitcast=True) & 0xF0)
        return packed.to(tl.uint8)
    else:  # noqa: RET505 -- Triton compiles what follows a branch that returns
        return tl.inline_asm_elementwise(
            _PACK_CODES, "=r" + ",f" * 8, [low, high], dtype=tl.uint8, is_pure=True, pack=4
        )


@triton.jit
def _encode_range(low, high, CLIP: tl.constexpr, TOP: tl.constexpr):
    """Encoded zero and scale of the middle part of a range."""
    return encode(low + (high - low) * ((1.0 - CLIP) / 2), (high - low) * (CLIP / TOP))


@triton.jit
def _fit(x, mask, TOP: tl.constexpr, CLIP: tl.constexpr):
    """Encoded zero and scale (int32 [ROWS] each) of each row of x, f32 [ROWS, N]; only elements in mask count."""
    low = tl.min(tl.where(mask, x, float("inf")), 1)
    high = tl.max(tl.where(mask, x, float("-inf")), 1)
    return _encode_range(low, high, CLIP, TOP)


@triton.jit
def quantize_keys(record, group, x, part, j, LAYOUT: tl.constexpr, CLIP: tl.constexpr):
    """Quantize some channels of a whole key group, and write their zeros and scales into its record.

    Args:
        group: of the block.
        x: f32 [J, G], the channels at place ``part`` of packed channels ``j`` (int32 [J]).

    Returns:
        int32 [J, G], their codes in place; or-ed over the parts they are what :func:`store_key_codes` writes.
    """
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    TOP: tl.constexpr = (1 << LAYOUT.key_bits) - 1
    c = group * D + part * WIDTH + j
    every = tl.full(x.shape, 1, tl.int1)
    zero_bits, scale_bits = _fit(x, every, TOP, CLIP)
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16))
    tl.store(zeros + c, zero_bits.to(tl.uint16), mask=j < WIDTH)
    tl.store(record + LAYOUT.key_scales_offset + c, scale_bits.to(tl.uint8), mask=j < WIDTH)
    inverse = tl.div_rn(1.0, decode_scale(zero_bits, scale_bits))
    return codes_of(x - decode_zero(zero_bits)[:, None], inverse[:, None], TOP) << (LAYOUT.key_bits * part)


@triton.jit
def store_key_codes(record, group, packed, j, LAYOUT: tl.constexpr):
    """Write packed channels ``j`` of a whole key group, int32 [J, G], into its record."""
    G: tl.constexpr = LAYOUT.key_group
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    token = group * G + tl.arange(0, G)
    to = record + LAYOUT.key_codes_offset + token[None, :] * WIDTH + j[:, None]
    tl.store(to, packed.to(tl.uint8), mask=(j < WIDTH)[:, None] & (token >= 0)[None, :])


@triton.jit
def quantize_head(record, group, ring, first, ring_tokens, BYTES: tl.constexpr, LAYOUT: tl.constexpr):
    """Quantize a whole key group of a head out of a ring into its record, 4 bits a code.

    Some tokens at a time, twice, so that whole tokens are read side by side and few registers serve. The same bytes as
    :func:`quantize_keys` writes.

    Args:
        group: of the block.
        ring: the head's first token in the ring.
        first: position of the group's first token.
        BYTES: of a token in the ring.
    """
    tl.static_assert(LAYOUT.key_bits == 4)
    G: tl.constexpr = LAYOUT.key_group
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    TOP: tl.constexpr = 15
    SIZE: tl.constexpr = triton.next_power_of_2(WIDTH)
    TOKENS: tl.constexpr = min(G, max(_HEAD_ELEMENTS // (2 * SIZE), 1))
    begin = first % ring_tokens
    t = tl.arange(0, TOKENS)
    low0 = tl.full([TOKENS, SIZE // 8, 8], float("inf"), tl.float32)
    high0, low1, high1 = -low0, low0, -low0
    # The next tokens are on their way while these are worked on.
    codes0, exponent0, codes1, exponent1 = _load_halves(ring, begin, TOKENS, ring_tokens, BYTES, WIDTH, D)
    for at in range(TOKENS, G + TOKENS, TOKENS):
        x0, x1 = unstage_rows(codes0, exponent0), unstage_rows(codes1, exponent1)
        following = begin + at % G
        codes0, exponent0, codes1, exponent1 = _load_halves(ring, following, TOKENS, ring_tokens, BYTES, WIDTH, D)
        low0, high0 = tl.minimum(low0, x0), tl.maximum(high0, x0)
        low1, high1 = tl.minimum(low1, x1), tl.maximum(high1, x1)
    zero_bits0, scale_bits0 = _encode_range(tl.min(low0, 0), tl.max(high0, 0), 1.0, TOP)
    zero_bits1, scale_bits1 = _encode_range(tl.min(low1, 0), tl.max(high1, 0), 1.0, TOP)
    j = tl.arange(0, SIZE // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    tl.store(zeros + j, zero_bits0.to(tl.uint16), mask=j < WIDTH)
    tl.store(zeros + WIDTH + j, zero_bits1.to(tl.uint16), mask=j < WIDTH)
    tl.store(scales + j, scale_bits0.to(tl.uint8), mask=j < WIDTH)
    tl.store(scales + WIDTH + j, scale_bits1.to(tl.uint8), mask=j < WIDTH)
    tl.debug_barrier()
    # Read back, each by one lane: a reduction leaves its result in many, and all of them would divide.
    zero0, inverse0 = _load_range(zeros, scales, WIDTH)
    zero1, inverse1 = _load_range(zeros + WIDTH, scales + WIDTH, WIDTH)
    to = record + LAYOUT.key_codes_offset + group * G * WIDTH
    for at in range(0, G, TOKENS):
        above0, above1 = unstage_rows_above(codes0, exponent0, zero0), unstage_rows_above(codes1, exponent1, zero1)
        following = begin + (at + TOKENS) % G
        codes0, exponent0, codes1, exponent1 = _load_halves(ring, following, TOKENS, ring_tokens, BYTES, WIDTH, D)
        packed = _packed_codes(above0, inverse0, above1, inverse1)
        at_token = to + (at + t)[:, None, None] * WIDTH
        tl.store(at_token + j[None, :, :], packed, mask=(t >= 0)[:, None, None] & (j < WIDTH)[None, :, :])


@triton.jit
def _load_halves(
    ring, at, TOKENS: tl.constexpr, ring_tokens, BYTES: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr
):
    """Of tokens of a head's ring what both halves of its packed channels are made of.

    ``at`` is the place of the first, a multiple of eight; the ring's tokens are one too, so that eight lie together.
    """
    TOGETHER: tl.constexpr = min(TOKENS, 8)
    place = at + tl.arange(0, TOKENS // TOGETHER) * TOGETHER
    place = tl.where(place < ring_tokens, place, place - ring_tokens)
    tokens = ring + tl.reshape(place[:, None] + tl.arange(0, TOGETHER)[None, :], [TOKENS]) * BYTES
    codes0, exponent0 = load_staged_rows(tokens, 0, WIDTH, D)
    codes1, exponent1 = load_staged_rows(tokens, WIDTH, WIDTH, D)
    return codes0, exponent0, codes1, exponent1


@triton.jit
def _load_range(zeros, scales, WIDTH: tl.constexpr):
    """Zeros and inverse scales of WIDTH channels of a record, float32 [1, blocks, 8]."""
    SIZE: tl.constexpr = triton.next_power_of_2(WIDTH)
    j = tl.arange(0, SIZE)
    zero, scale = load_pairs(zeros, scales, j, j < WIDTH)
    shape: tl.constexpr = [1, SIZE // 8, 8]
    return tl.reshape(zero, shape), tl.reshape(tl.div_rn(1.0, scale), shape)


@triton.jit
def _load_values(at, c, mask, D: tl.constexpr, STAGED: tl.constexpr):
    if STAGED:
        return load_staged(at, c, mask, D)
    else:  # noqa: RET505 -- Triton compiles what follows a branch that returns
        return tl.load(at + c, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_values(
    head_pages, stride_page, slot, source,
    LAYOUT: tl.constexpr, CLIP: tl.constexpr, SPAN: tl.constexpr, STAGED: tl.constexpr,
):  # fmt: skip
    """Quantize the values of tokens and write each into its column of its page.

    Args:
        head_pages: the head's record in block 0.
        slot: int64 [n], block * T + token of the block; negative: skipped.
        source: pointers [n] to the tokens' first channels, or to a ring's tokens.
        SPAN: of :func:`value_span`.
        STAGED: whether they lie in a ring.
    """
    D: tl.constexpr = LAYOUT.head_size
    T: tl.constexpr = LAYOUT.block_size
    SIZE: tl.constexpr = LAYOUT.value_group
    ROWS: tl.constexpr = LAYOUT.value_code_rows
    TOP: tl.constexpr = (1 << LAYOUT.value_bits) - 1
    kept = slot >= 0
    record = head_pages + slot // T * stride_page
    token = slot % T
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16)) + token
    scales = record + LAYOUT.value_scales_offset + token
    j = tl.arange(0, triton.next_power_of_2(ROWS))
    in_part = kept[:, None] & (j < ROWS)[None, :]
    w = tl.arange(0, triton.next_power_of_2(SIZE))
    in_group = kept[:, None] & (w < SIZE)[None, :]
    packed = tl.zeros(in_part.shape, tl.int32)
    for part in range(8 // LAYOUT.value_bits):
        c = part * ROWS + j
        zero = tl.zeros(in_part.shape, tl.float32)
        inverse = tl.zeros(in_part.shape, tl.float32)
        for i in range(SPAN):
            g = tl.minimum(part * ROWS // SIZE + i, D // SIZE - 1)
            x = _load_values(source[:, None], (g * SIZE + w)[None, :], in_group, D, STAGED)
            zero_bits, scale_bits = _fit(x, (w < SIZE)[None, :], TOP, CLIP)
            here = (c // SIZE == g)[None, :]
            zero = tl.where(here, decode_zero(zero_bits)[:, None], zero)
            inverse = tl.where(here, tl.div_rn(1.0, decode_scale(zero_bits, scale_bits))[:, None], inverse)
            # A group that reaches over two parts is written by the part it starts in.
            starts_here = kept & (g * SIZE >= part * ROWS) & (g * SIZE < (part + 1) * ROWS)
            tl.store(zeros + g * T, zero_bits.to(tl.uint16), mask=starts_here)
            tl.store(scales + g * T, scale_bits.to(tl.uint8), mask=starts_here)
        x = _load_values(source[:, None], c[None, :], in_part, D, STAGED)
        packed |= codes_of(x - zero, inverse, TOP) << (LAYOUT.value_bits * part)
    to = record[:, None] + LAYOUT.value_codes_offset + j[None, :] * T + token[:, None]
    tl.store(to, packed.to(tl.uint8), mask=in_part)


@triton.constexpr_function
def takes_tiles(LAYOUT):
    """Whether :func:`store_value_tile` is built for a layout: whole groups and parts in a head of 2^n channels."""
    sizes = LAYOUT.head_size, LAYOUT.value_group
    return all(size & (size - 1) == 0 for size in sizes)


@triton.jit
def store_value_tile(head_pages, stride_page, slot, x, LAYOUT: tl.constexpr, CLIP: tl.constexpr):
    """As :func:`store_values`, of values in registers: whole heads, x f32 [ROWS, D].

    Args:
        head_pages: u8 pointers [ROWS], or one, to heads' records in block 0.
        slot: int64 [ROWS].
    """
    T: tl.constexpr = LAYOUT.block_size
    BITS: tl.constexpr = LAYOUT.value_bits
    GROUPS: tl.constexpr = LAYOUT.channel_groups
    ROWS: tl.constexpr = x.shape[0]
    TOP: tl.constexpr = (1 << BITS) - 1
    kept = (slot >= 0)[:, None]
    record, token = (head_pages + slot // T * stride_page)[:, None], (slot % T)[:, None]
    groups = tl.reshape(x, [ROWS * GROUPS, LAYOUT.value_group])
    zero_bits, scale_bits = _fit(groups, tl.full(groups.shape, 1, tl.int1), TOP, CLIP)
    inverse = tl.div_rn(1.0, decode_scale(zero_bits, scale_bits))
    codes = codes_of(groups - decode_zero(zero_bits)[:, None], inverse[:, None], TOP)
    parts = tl.reshape(codes, [ROWS, 8 // BITS, LAYOUT.value_code_rows])
    packed = tl.sum(parts << (BITS * tl.arange(0, 8 // BITS))[None, :, None], 1)
    j, g = tl.arange(0, LAYOUT.value_code_rows)[None, :], tl.arange(0, GROUPS)[None, :]
    tl.store(record + LAYOUT.value_codes_offset + j * T + token, packed.to(tl.uint8), mask=kept & (j >= 0))
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16)) + token
    tl.store(zeros + g * T, tl.reshape(zero_bits, [ROWS, GROUPS]).to(tl.uint16), mask=kept & (g >= 0))
    scales = record + LAYOUT.value_scales_offset + token
    tl.store(scales + g * T, tl.reshape(scale_bits, [ROWS, GROUPS]).to(tl.uint8), mask=kept & (g >= 0))
