"""Staged tokens: eight-bit codes with an exponent for every eight channels (layout.py); ``reference.stage``.

The values that the codes stand for are exact in float32, bfloat16 and float16 alike (in float16 down to 2^-24), so a
token reads the same from a ring as from the step that brought it.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import INTERPRETING, PER_ROW, Batch
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.rotation import rotate
from vllm_kivi.layout import STAGING_BLOCK
from vllm_kivi.reference import LARGEST

_BLOCK = tl.constexpr(STAGING_BLOCK)
_LARGEST = tl.constexpr(LARGEST)

_RAISE = tl.constexpr(2.0**23 + 128)
"""Of a float32 whose last eight bits of mantissa are a code plus 128."""

_RAISE_CODES = tl.constexpr(
    "{ .reg .b32 codes; xor.b32 codes, $4, 0x80808080; "
    + " ".join(f"prmt.b32 ${i}, codes, 0x4B000000, 0x744{i};" for i in range(4))
    + " }"
)

_ROWS = 16
"""Heads that one program prepares."""

_STAGED = 32
"""Tokens that one program copies into a ring."""


@triton.jit
def admit(x):
    """Keys or values, f32, as the cache takes them; ``reference.admit``."""
    return tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), -_LARGEST), _LARGEST)


@triton.jit
def stage_codes(x):
    """Codes int32 [ROWS, COLUMNS] of finite x, f32, and exponents int32 [ROWS, COLUMNS / 8], biased as in a float32."""
    ROWS: tl.constexpr = x.shape[0]
    BLOCKS: tl.constexpr = x.shape[1] // _BLOCK
    blocks = tl.reshape(x, [ROWS, BLOCKS, _BLOCK])
    high = tl.max(tl.abs(blocks), 2)
    exponent = tl.minimum(tl.maximum((high.to(tl.int32, bitcast=True) >> 23) - 6, 1), 127 + 8)  # _LARGEST
    codes = tl.floor(blocks * ((254 - exponent) << 23).to(tl.float32, bitcast=True)[:, :, None] + 0.5)
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0).to(tl.int32)
    return tl.reshape(codes, x.shape), exponent


@triton.jit
def staged_unit(exponent):
    """Float32 worth of one code under an exponent (any integer type)."""
    return (exponent.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def stage(x):
    """x, f32 [ROWS, COLUMNS], as a ring gives it back."""
    codes, exponent = stage_codes(x)
    return _staged_values(codes, exponent)


@triton.jit
def _staged_values(codes, exponent):
    ROWS: tl.constexpr = codes.shape[0]
    blocks = tl.reshape(codes.to(tl.float32), [ROWS, exponent.shape[1], _BLOCK])
    return tl.reshape(blocks * staged_unit(exponent)[:, :, None], codes.shape)


@triton.jit
def write_staged(at, x, live, D: tl.constexpr):
    """Stage x, f32 [ROWS, COLUMNS], into the ring's tokens at u8 pointers ``at`` [ROWS]; rows not ``live`` are left.

    Returns x as the ring gives it back.
    """
    codes, exponent = stage_codes(x)
    c = tl.arange(0, x.shape[1])
    tl.store(at[:, None] + c[None, :], codes.to(tl.uint8), mask=live[:, None] & (c < D)[None, :])
    b = tl.arange(0, x.shape[1] // _BLOCK)
    tl.store(at[:, None] + (D + b)[None, :], exponent.to(tl.uint8), mask=live[:, None] & (b < D // _BLOCK)[None, :])
    return _staged_values(codes, exponent)


@triton.jit
def _raise_codes(codes):
    """Float32 of staged codes, uint8 in two's complement, plus ``_RAISE``: each becomes part of a mantissa.

    A conversion from an integer would take eight times as long.
    """
    if INTERPRETING:
        return codes.to(tl.int8, bitcast=True).to(tl.float32) + _RAISE
    else:  # noqa: RET505 -- Triton compiles what follows a branch that returns
        return tl.inline_asm_elementwise(_RAISE_CODES, "=f,=f,=f,=f,r", [codes], dtype=tl.float32, is_pure=True, pack=4)


@triton.jit
def load_staged(at, c, mask, D: tl.constexpr):
    """Float32 channels ``c`` of the ring's tokens at u8 pointers ``at``; both shaped so that they broadcast."""
    codes = tl.load(at + c, mask=mask, other=0)
    exponent = tl.load(at + (D + c // _BLOCK), mask=mask, other=0)
    return (_raise_codes(codes) - _RAISE) * staged_unit(exponent)


@triton.jit
def load_staged_columns(at, first, live, COUNT: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr):
    """Float32 [SIZE, tokens]: COUNT channels from ``first`` on, padded, of the ring's live tokens at pointers [tokens].

    As :func:`load_staged`, with one load for an exponent; ``first`` and COUNT must be multiples of eight.
    """
    b, e = tl.arange(0, SIZE // _BLOCK), tl.arange(0, _BLOCK)
    here = (b < COUNT // _BLOCK)[:, None] & live[None, :]
    c = first + b[:, None, None] * _BLOCK + e[None, :, None]
    codes = tl.load(at[None, None, :] + c, mask=here[:, None, :], other=0)
    unit = staged_unit(tl.load(at[None, :] + (b + D + first // _BLOCK)[:, None], mask=here, other=0))
    return tl.reshape(tl.fma(_raise_codes(codes), unit[:, None, :], (unit * -_RAISE)[:, None, :]), [SIZE, at.shape[0]])


@triton.jit
def load_staged_rows(at, first: tl.constexpr, COUNT: tl.constexpr, D: tl.constexpr):
    """COUNT channels from ``first`` on, padded, of the ring's tokens at pointers [tokens], for :func:`unstage_rows`.

    Returns codes, four in an int32 [tokens, blocks, 2], and exponents, uint8 [tokens, blocks].
    ``first`` and COUNT must be multiples of eight, a token's bytes one of four.
    """
    b, w = tl.arange(0, triton.next_power_of_2(COUNT) // _BLOCK), tl.arange(0, _BLOCK // 4)
    here = (b < COUNT // _BLOCK)[None, :]
    words = (at + first).to(tl.pointer_type(tl.int32))
    at_word = words[:, None, None] + (b[None, :, None] * (_BLOCK // 4) + w[None, None, :])
    codes = tl.load(at_word, mask=here[:, :, None], other=0)
    return codes, tl.load(at[:, None] + (b + D + first // _BLOCK)[None, :], mask=here, other=0)


@triton.jit
def _raise_words(words):
    """As :func:`_raise_codes`, of int32 [tokens, blocks, 2] with four codes each; [tokens, blocks, 8]."""
    if INTERPRETING:
        codes = (words[:, :, :, None] >> (8 * tl.arange(0, 4))[None, None, None, :]).to(tl.uint8)
        raised = _raise_codes(codes)
    else:
        x0, x1, x2, x3 = tl.inline_asm_elementwise(
            _RAISE_CODES, "=f,=f,=f,=f,r", [words], dtype=(tl.float32,) * 4, is_pure=True, pack=1
        )
        raised = tl.join(tl.join(x0, x2), tl.join(x1, x3))
    return tl.reshape(raised, [words.shape[0], words.shape[1], _BLOCK])


@triton.jit
def unstage_rows(words, exponent):
    """Float32 [tokens, blocks, 8] of what :func:`load_staged_rows` returns."""
    unit = staged_unit(exponent)[:, :, None]
    return tl.fma(_raise_words(words), unit, unit * -_RAISE)  # exact, as is each of its steps


@triton.jit
def unstage_rows_above(words, exponent, zero):
    """As :func:`unstage_rows`, less a zero; rounded once."""
    return tl.fma(_raise_words(words) - _RAISE, staged_unit(exponent)[:, :, None], -zero)


@triton.jit(do_not_specialize=["count"])
def _prepare_kernel(
    first_out,  # [tokens, heads, D]
    first,  # likewise
    second_out,  # likewise, of the second part of the grid
    second,
    count,  # tokens * heads
    heads,
    stride_out_token,
    stride_out_head,
    stride_first_token,
    stride_first_head,
    stride_second_token,
    stride_second_head,
    HEAD_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    ROTATE: tl.constexpr,
    STAGE: tl.constexpr,
):
    tl.static_assert(HEAD_SIZE % 8 == 0, "a head size is a multiple of 8")
    COLUMNS: tl.constexpr = triton.next_power_of_2(HEAD_SIZE)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = (row // heads)[:, None], (row % heads)[:, None]
    c = tl.arange(0, COLUMNS)[None, :]
    mask = (row < count)[:, None] & (c < HEAD_SIZE)
    if tl.program_id(1) == 0:
        at, out = first + token * stride_first_token + head * stride_first_head, first_out
    else:
        at, out = second + token * stride_second_token + head * stride_second_head, second_out
    values = tl.load(at + c, mask=mask, other=0.0).to(tl.float32)
    if STAGE:
        values = admit(values)
    if ROTATE:
        values = rotate(values, ROWS, COLUMNS, HEAD_SIZE)
    if STAGE:
        values = stage(values)
    tl.store(out + token * stride_out_token + head * stride_out_head + c, values.to(out.dtype.element_ty), mask=mask)


def _prepare(out: tuple[torch.Tensor, ...], x: tuple[torch.Tensor, ...], rotation: bool, staging: bool) -> None:
    tokens, heads, head_size = x[0].shape
    assert {each.stride() for each in out} == {out[0].stride()}
    _preparer(head_size, rotation, staging)(
        (triton.cdiv(tokens * heads, _ROWS), len(x), 1),
        (out[0], x[0], out[-1], x[-1]),
        tokens * heads,
        heads,
        out[0].stride(0),
        out[0].stride(1),
        x[0].stride(0),
        x[0].stride(1),
        x[-1].stride(0),
        x[-1].stride(1),
    )


@functools.cache
def _preparer(head_size: int, rotation: bool, staging: bool) -> Launcher:
    return Launcher(_prepare_kernel, 4, HEAD_SIZE=head_size, ROWS=_ROWS, ROTATE=rotation, STAGE=staging, num_warps=4)


def rotate_heads(out: torch.Tensor, x: torch.Tensor) -> None:
    """Rotate each head of x into ``out``, which may be x itself. Meaning: ``reference.rotate``. Graph-safe.

    Args:
        out, x: [tokens, heads, D] of any float dtypes, channels contiguous; computed in float32.
    """
    _prepare((out,), (x,), rotation=True, staging=False)


def stage_heads(
    out: tuple[torch.Tensor, torch.Tensor], fresh: tuple[torch.Tensor, torch.Tensor], rotation: bool
) -> None:
    """Admit keys and values and round them to what rings hold, rotated before if the format rotates; else as
    :func:`rotate_heads`.

    Args:
        out, fresh: keys and values; those of ``out`` of equal strides.
    """
    _prepare(out, fresh, rotation, staging=True)


@triton.jit(do_not_specialize_on_alignment=PER_ROW)
def _newest_kernel(
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    ring_value,  # likewise
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    slots,  # i32 [B]
    key,  # [tokens, H, D]
    value,  # likewise
    stride_token,
    stride_head,
    stride_key_slot,
    stride_value_slot,
    key_tokens,
    value_tokens,
    key_tiles,  # of the grid's last dimension; the others are of values
    D: tl.constexpr,
    BYTES: tl.constexpr,
    TOKENS: tl.constexpr,
):
    row, head, tile = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    start, end = tl.load(query_start + row), tl.load(query_start + row + 1)
    slot = tl.load(slots + row).to(tl.int64)
    if tile < key_tiles:
        ring, source, ring_tokens = ring_key + slot * stride_key_slot, key, key_tokens
    else:
        ring, source, ring_tokens = ring_value + slot * stride_value_slot, value, value_tokens
        tile -= key_tiles
    back = 1 + tile * TOKENS + tl.arange(0, TOKENS)  # from the row's end
    token = (end - back).to(tl.int64)
    position = tl.load(seq_lens + row) - back
    c = tl.arange(0, triton.next_power_of_2(D))
    live = (token >= start) & (back <= ring_tokens)
    at = source + token * stride_token + head * stride_head
    x = tl.load(at[:, None] + c[None, :], mask=live[:, None] & (c < D)[None, :], other=0.0).to(tl.float32)
    write_staged(ring + (head * ring_tokens + position % ring_tokens) * BYTES, x, live, D)


def stage_newest(
    rings: tuple[torch.Tensor, torch.Tensor], batch: Batch, fresh: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Copy each row's newest tokens of the step into the rings, after the attention: they overwrite what it reads.

    Args:
        rings: uint8 [slots, H, ring tokens, staged bytes], contiguous; position p goes to p % ring tokens.
        fresh: keys and values [tokens, H, D] of :func:`stage_heads`.
    """
    (ring_key, ring_value), (key, value) = rings, fresh
    tiles = [triton.cdiv(ring.shape[2], _STAGED) for ring in rings]
    _newest(key.shape[2], ring_key.shape[3])(
        (batch.seq_lens.shape[0], ring_key.shape[1], sum(tiles)),
        (ring_key, ring_value, batch.query_start, batch.seq_lens, batch.slots, key, value),
        key.stride(0),
        key.stride(1),
        ring_key.stride(0),
        ring_value.stride(0),
        ring_key.shape[2],
        ring_value.shape[2],
        tiles[0],
    )


@functools.cache
def _newest(head_size: int, staged: int) -> Launcher:
    return Launcher(_newest_kernel, 7, D=head_size, BYTES=staged, TOKENS=_STAGED, num_warps=4)
