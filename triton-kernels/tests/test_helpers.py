"""Codes, and zeros and scales, against the reference: every byte, every code point."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from vllm_kivi import reference
from vllm_kivi.kernels.helpers import INTERPRETED, decode_scale, decode_zero, encode, part_scale, row_of, unpack
from vllm_kivi.kernels.staging import rotate_heads, stage_heads

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="hands CPU tensors to the kernels")


@triton.jit
def _unpack_kernel(out, packed, BITS: tl.constexpr):
    i = tl.arange(0, 256)
    parts = unpack(tl.load(packed + i), BITS)
    for part in tl.static_range(8 // BITS):
        tl.store(out + part * 256 + i, parts[part].to(tl.float32) * part_scale(part, BITS))


@pytest.mark.parametrize("bits", [2, 4])
def test_every_byte_unpacks(bits: int) -> None:
    packed = torch.arange(256, dtype=torch.uint8)
    out = torch.empty(8 // bits * 256)
    _unpack_kernel[(1,)](out, packed, BITS=bits)
    assert torch.equal(out, reference.unpack(packed, bits, 0).float())


@triton.jit
def _rows_kernel(rows, firsts, query_start, count, TOKENS: tl.constexpr):
    row, first = row_of(tl.program_id(0), query_start, count, TOKENS)
    tl.store(rows + tl.program_id(0), row)
    tl.store(firsts + tl.program_id(0), first)


@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_every_token_of_every_row_has_one_tile(tokens: int) -> None:
    counts = [5, 0, 1, 64, 33, 0, 31]
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    tiles = len(counts) + sum(counts) // tokens
    rows, firsts = torch.empty(tiles, dtype=torch.int32), torch.empty(tiles, dtype=torch.int32)
    _rows_kernel[(tiles,)](rows, firsts, starts, len(counts), TOKENS=tokens)
    got = [(int(r), int(f)) for r, f in zip(rows, firsts, strict=True) if f < counts[r]]
    assert got == [(r, f) for r, count in enumerate(counts) for f in range(0, count, tokens)]


@triton.jit
def _encode_kernel(zero_bits, scale_bits, zero, scale, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    z, s = encode(tl.load(zero + i), tl.load(scale + i))
    tl.store(zero_bits + i, z)
    tl.store(scale_bits + i, s)


@triton.jit
def _decode_kernel(zero, scale, zero_bits, scale_bits, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    z, s = tl.load(zero_bits + i), tl.load(scale_bits + i)
    tl.store(zero + i, decode_zero(z))
    tl.store(scale + i, decode_scale(z, s))


def test_every_code_point_decodes() -> None:
    zero_bits = torch.arange(65536, dtype=torch.int32)
    scale_bits = (zero_bits >> 8) ^ (zero_bits & 0xFF)  # every byte, with every pair of low bits
    zero, scale = torch.empty(65536), torch.empty(65536)
    _decode_kernel[(1,)](zero, scale, zero_bits, scale_bits, SIZE=65536)
    want_zero, want_scale = reference.decode(zero_bits, scale_bits)
    assert torch.equal(zero.view(torch.int32), want_zero.view(torch.int32))
    assert torch.equal(scale, want_scale)


def test_encode_over_the_whole_range() -> None:
    generator = torch.Generator().manual_seed(1)
    magnitude = torch.randn(65536, generator=generator) * torch.exp2(
        torch.randint(-24, 24, (65536,), generator=generator).float()
    )
    edges = torch.tensor(
        [
            0.0,
            -0.0,
            2.0**-14,
            -(2.0**-14),
            2.0**-15,
            65408.0,
            65472.0,
            -1e30,
            64512.0,
            65000.0,
            1.0 + 2.0**-9,
            1.0 + 2.0**-6,
        ]
    )
    magnitude[: edges.numel()] = edges
    zero_bits, scale_bits = torch.empty(65536, dtype=torch.int32), torch.empty(65536, dtype=torch.int32)
    _encode_kernel[(1,)](zero_bits, scale_bits, magnitude, magnitude.abs(), SIZE=65536)
    want_zero, want_scale = reference.encode(magnitude, magnitude.abs())
    assert torch.equal(zero_bits, want_zero)
    assert torch.equal(scale_bits, want_scale)


@pytest.mark.parametrize(
    ("head_size", "dtype", "tolerance"),
    [
        (64, torch.float32, 1e-6),
        (80, torch.float16, 2e-3),
        (96, torch.float32, 1e-6),
        (128, torch.bfloat16, 1e-2),
        (256, torch.float32, 1e-6),
    ],
    ids=str,
)
def test_rotation(head_size: int, dtype: torch.dtype, tolerance: float) -> None:
    fused = torch.randn(5, 9, head_size, generator=torch.Generator().manual_seed(2)).to(dtype)
    x, untouched = fused[:, 2:5], fused[:, 5:].clone()  # strided, as a slice of a fused projection
    want = reference.rotate(x.float())
    rotate_heads(x, x)
    assert ((x.float() - want).norm() / want.norm()).item() < tolerance
    assert torch.equal(fused[:, 5:], untouched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_staging_rounds_as_the_reference_and_only_once(dtype: torch.dtype) -> None:
    """Over magnitudes, with zeros, infinitely small numbers and outliers; what comes out fits the dtype exactly."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 3, 80, generator=generator) * torch.exp2(torch.randint(-9, 9, (7, 3, 80), generator=generator))
    x[0], x[1, 0], x[2, 1, 5] = 0, 1e-30, 30000
    x = x.to(dtype)
    out, again = torch.empty_like(x), torch.empty_like(x)
    stage_heads((out, again), (x, x), rotation=False)
    assert torch.equal(out, again)
    assert torch.equal(out.float(), reference.stage(x).to(dtype).float())
    stage_heads((again, torch.empty_like(x)), (out, x), rotation=False)
    assert torch.equal(again, out)
    error = (out.float() - x.float()).abs().unflatten(-1, (-1, 8)).amax(-1)
    assert (error <= x.float().abs().unflatten(-1, (-1, 8)).amax(-1) / 127 + 2.0**-25).all()
