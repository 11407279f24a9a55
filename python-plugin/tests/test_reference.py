"""The meaning of every operation, checked where it is small enough to check completely."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_kivi.config import PRESETS
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import (
    CLIP_RATIO,
    Sections,
    attend,
    attention_over,
    closed_keys,
    decode,
    encode,
    hadamard,
    load_blocks,
    merge,
    pack,
    quantize,
    rotate,
    rough_values,
    store_keys,
    store_values,
    unpack,
)

LARGEST_ZERO = 65408.0
LARGEST_SCALE = 64512.0
SMALLEST = 2.0**-14


# --- the three-byte pair ----------------------------------------------------------------------------------------------


def valid_zeros() -> torch.Tensor:
    """All uint16 zeros that the encoder may write, scale bits clear: no subnormals, nothing above the largest."""
    bits = torch.arange(0, 1 << 16, 4)
    magnitude = (bits & 0x7FFC) >> 2
    return bits[((magnitude == 0) | (magnitude >= 1 << 8)) & (magnitude <= 0x1EFF)]


def test_every_zero_survives_a_round_trip() -> None:
    bits = valid_zeros()
    assert bits.numel() == 2 * (0x1EFF - 0xFF + 1)
    zero, _ = decode(bits, torch.full_like(bits, 8))
    again, _ = encode(zero, torch.ones(bits.numel()))
    assert (again & 0xFFFC).equal(bits.int())
    positive = zero[bits < 0x8000]
    assert positive[0] == 0
    assert positive.diff().gt(0).all(), "larger bits mean a larger zero"
    assert positive[-1] == LARGEST_ZERO
    assert positive[1] == SMALLEST


def test_every_scale_survives_a_round_trip() -> None:
    code = torch.arange(0x20, 0x3E0)  # exponent 1 and up
    _, scale = decode(code & 3, code >> 2)
    low, high = encode(torch.zeros(code.numel()), scale)
    assert (high << 2 | (low & 3)).equal(code.int())
    assert scale[0] == SMALLEST
    assert scale[-1] == LARGEST_SCALE
    assert scale.diff().gt(0).all()


def test_decode_of_encode_of_decode_is_decode_for_all_bits() -> None:
    zeros = torch.arange(1 << 16)
    for scales in (torch.full_like(zeros, 8), torch.arange(1 << 16) % 256):
        zero, scale = decode(zeros, scales)
        again = decode(*encode(zero, scale))
        twice = decode(*encode(*again))
        assert again[0].equal(twice[0])
        assert again[1].equal(twice[1])


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(0, 2.0**100, width=32))
def test_encoding_rounds_to_nearest_and_saturates(zero: float, scale: float) -> None:
    bits, high = encode(torch.tensor([zero]), torch.tensor([scale]))
    assert 0 <= int(bits) < 1 << 16
    assert 0 <= int(high) < 1 << 8
    z, s = (float(x) for x in decode(bits, high))
    wanted_zero = max(-LARGEST_ZERO, min(LARGEST_ZERO, zero))
    # Half a step of the mantissa (2^-9); below 2^-14 there are no steps: a zero becomes 0 or 2^-14.
    assert abs(z - wanted_zero) <= max(abs(wanted_zero) * 2**-9, SMALLEST)
    wanted_scale = max(SMALLEST, min(LARGEST_SCALE, scale))
    assert abs(s - wanted_scale) <= wanted_scale * 2**-6
    assert s >= SMALLEST


@pytest.mark.parametrize("zero", [0.0, -0.0, 1e-5, -1e-5])
def test_a_zero_too_small_for_the_format_is_zero(zero: float) -> None:
    bits, high = encode(torch.tensor([zero]), torch.tensor([0.0]))
    z, s = decode(bits, high)
    assert z == 0
    assert s == SMALLEST


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("dim", [0, 1])
def test_packing_covers_all_bytes(bits: int, dim: int) -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).expand(3, 256)
    every_byte = every_byte if dim == 1 else every_byte.t()
    codes = unpack(every_byte, bits, dim)
    assert codes.shape[dim] == 256 * 8 // bits
    assert int(codes.max()) == 2**bits - 1
    assert pack(codes, bits, dim).equal(every_byte)


def test_packing_puts_distant_channels_into_one_byte() -> None:
    codes = torch.arange(8, dtype=torch.uint8)
    assert pack(codes, 4, 0).tolist() == [0x40, 0x51, 0x62, 0x73]
    # Byte 0 holds channels 0, 2, 4, 6 (codes 0, 2, 0, 2), byte 1 channels 1, 3, 5, 7 (codes 1, 3, 1, 3).
    assert pack(codes % 4, 2, 0).tolist() == [0b10_00_10_00, 0b11_01_11_01]


# --- rotation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [64, 80, 96, 128, 256])
def test_hadamard_is_orthonormal_and_its_own_inverse(d: int, seeded: torch.Generator) -> None:
    matrix = hadamard(d)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(d), atol=1e-6, rtol=0)
    assert matrix.equal(matrix.t())
    order = d & -d
    nonzero = matrix != 0
    assert nonzero.equal(torch.block_diag(*[torch.ones(order, order)] * (d // order)).bool())
    x = torch.randn(5, 3, d, generator=seeded)
    torch.testing.assert_close(rotate(rotate(x)), x, atol=1e-5, rtol=0)
    y = torch.randn(5, 3, d, generator=seeded)
    torch.testing.assert_close((rotate(x) * rotate(y)).sum(-1), (x * y).sum(-1), atol=1e-3, rtol=0)


def test_rotation_keeps_the_dtype() -> None:
    assert rotate(torch.ones(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


# --- quantization -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, 20.0, -500.0])
def test_error_is_at_most_half_a_step_inside_the_range(
    bits: int, spread: float, offset: float, seeded: torch.Generator
) -> None:
    x = torch.randn(64, 128, generator=seeded) * spread + offset
    codes, zero_bits, scale_bits = quantize(x, bits, 1, clipping=False)
    zero, scale = decode(zero_bits, scale_bits)
    assert int(codes.max()) <= 2**bits - 1
    restored = codes * scale + zero
    top = zero + (2**bits - 1) * scale
    inside = (x >= zero) & (x <= top)
    # Half a step, and the rounding of float32 in x - zero.
    slack = x.abs().amax(1, keepdim=True) * 2e-6
    assert ((restored - x).abs() <= scale / 2 + slack)[inside].all()
    # Outside the range the value is clamped: what is lost is the rounding of zero (2^-9) and of the range (2^-6).
    lost = zero.abs() * 2**-8 + SMALLEST + (2**bits - 1) * scale * 2**-5
    assert ((restored - x).abs() <= scale / 2 + lost + slack).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.25, 1000.0, 1e-6, 0.3])
@pytest.mark.parametrize("clipping", [False, True])
def test_constant_channels_stay_constant(constant: float, clipping: bool) -> None:
    x = torch.full((4, 32), constant)
    codes, zero_bits, scale_bits = quantize(x, 2, 1, clipping)
    zero, scale = decode(zero_bits, scale_bits)
    assert scale.eq(SMALLEST).all()
    restored = codes * scale + zero
    assert restored.eq(restored[0, 0]).all()
    assert abs(float(restored[0, 0]) - constant) <= abs(constant) * 2**-9 + SMALLEST


def squared_error(x: torch.Tensor, bits: int, clipping: bool) -> torch.Tensor:
    codes, zero_bits, scale_bits = quantize(x, bits, 1, clipping)
    zero, scale = decode(zero_bits, scale_bits)
    return ((codes * scale + zero - x) ** 2).sum(1)


def test_codes_of_four_bits_are_not_clipped(seeded: torch.Generator) -> None:
    x = torch.randn(32, 64, generator=seeded)
    x[:, 5] *= 40
    for found, plain in zip(quantize(x, 4, 1, clipping=True), quantize(x, 4, 1, clipping=False), strict=True):
        assert found.equal(plain)


def test_clipping_covers_the_middle_of_the_range(seeded: torch.Generator) -> None:
    x = torch.randn(256, 64, generator=seeded)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    _, zero_bits, scale_bits = quantize(x, 2, 1, clipping=True)
    zero, scale = decode(zero_bits, scale_bits)
    torch.testing.assert_close(3 * scale / (high - low), torch.full_like(low, CLIP_RATIO), rtol=2**-6, atol=0)
    torch.testing.assert_close(zero + 1.5 * scale, (low + high) / 2, rtol=0, atol=0.05)


@pytest.mark.parametrize("outlier", [1.0, 4.0, 40.0])
def test_clipping_lowers_the_squared_error(outlier: float, seeded: torch.Generator) -> None:
    x = torch.randn(256, 32, generator=seeded)
    x[:, 5] *= outlier
    assert float(squared_error(x, 2, True).mean()) < 0.95 * float(squared_error(x, 2, False).mean())


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("d", [64, 80, 96, 128])
def test_what_is_stored_is_what_quantization_says(preset: str, d: int, seeded: torch.Generator) -> None:
    config = PRESETS[preset]
    layout = config.layout(d, 128)
    g, heads = layout.key_group, 2
    pages = torch.full((4, heads, layout.record_bytes), 0xFF, dtype=torch.uint8)
    untouched = pages.clone()
    key, value = torch.randn(2, layout.key_groups, g, heads, d, generator=seeded)
    blocks = torch.full((layout.key_groups,), 2)
    store_keys(layout, pages, blocks, torch.arange(layout.key_groups), key, config.clipping)
    store_values(layout, pages, 2 * 128 + torch.arange(128), value.flatten(0, 1), config.clipping)
    assert pages[[0, 1, 3]].equal(untouched[[0, 1, 3]])
    got_key, got_value = load_blocks(layout, pages, torch.tensor([2]))
    assert got_key.shape == got_value.shape == (heads, 128, d)
    for part in range(layout.key_groups):
        codes, zero_bits, scale_bits = quantize(key[part], config.key_bits, 0, config.clipping)
        zero, scale = decode(zero_bits, scale_bits)
        assert got_key[:, part * g : (part + 1) * g].equal((codes * scale + zero).transpose(0, 1))
        grouped = value[part].unflatten(-1, (-1, layout.value_group))
        codes, zero_bits, scale_bits = quantize(grouped, config.value_bits, -1, config.clipping)
        zero, scale = decode(zero_bits, scale_bits)
        assert got_value[:, part * g : (part + 1) * g].equal((codes * scale + zero).flatten(-2).transpose(0, 1))


def test_storing_one_group_leaves_the_blocks_other_groups_alone(seeded: torch.Generator) -> None:
    layout = CacheLayout(64, 128, 4, 2, 32, 32)
    pages = torch.full((1, 1, layout.record_bytes), 0xFF, dtype=torch.uint8)
    key = torch.randn(1, 32, 1, 64, generator=seeded)
    store_keys(layout, pages, torch.tensor([0]), torch.tensor([2]), key, False)
    sections = Sections(layout, pages[0])
    tokens = torch.ones(128, dtype=torch.bool)
    tokens[64:96] = False
    assert sections.key_codes[:, tokens].eq(0xFF).all()
    assert sections.key_scales[:, [0, 1, 3]].eq(0xFF).all()
    assert sections.key_zeros[:, [0, 1, 3]].view(torch.uint8).eq(0xFF).all()
    assert not sections.key_scales[:, 2].eq(0xFF).any()
    for untouched in (sections.value_codes, sections.value_scales, sections.value_zeros.view(torch.uint8)):
        assert untouched.eq(0xFF).all()


def test_storing_one_value_leaves_the_blocks_other_tokens_alone(seeded: torch.Generator) -> None:
    layout = CacheLayout(64, 128, 4, 2, 32, 32)
    pages = torch.full((2, 1, layout.record_bytes), 0xFF, dtype=torch.uint8)
    store_values(layout, pages, torch.tensor([128 + 77, -1]), torch.randn(2, 1, 64, generator=seeded), False)
    assert pages[0].eq(0xFF).all()
    sections = Sections(layout, pages[1])
    others = torch.arange(128) != 77
    assert sections.value_codes[:, :, others].eq(0xFF).all()
    assert sections.value_scales[:, :, others].eq(0xFF).all()
    assert sections.value_zeros[:, :, others].eq(0xFFFF).all()
    assert not sections.value_scales[:, :, 77].eq(0xFF).any()
    for untouched in (sections.key_codes, sections.key_scales, sections.key_zeros.view(torch.uint8)):
        assert untouched.eq(0xFF).all()


# --- attention --------------------------------------------------------------------------------------------------------


@given(
    position=st.integers(0, 2000),
    group=st.sampled_from([32, 64, 128, 256]),
    window=st.integers(0, 300),
    hit=st.integers(0, 4),
)
def test_closed_keys(position: int, group: int, window: int, hit: int) -> None:
    readable_from = min(hit * group, position // group * group)
    closed = closed_keys(position, group, window, readable_from)
    natural = [n for n in range(0, position + 1, group) if n == 0 or n <= position - window]
    assert closed == max(natural[-1], readable_from)
    assert closed % group == 0
    assert closed <= position, "a query reads its own key exactly, and with it the group that it completes"
    assert position + 1 - closed <= group + window
    assert closed_keys(position + 1, group, window, readable_from) >= closed


@given(
    position=st.integers(0, 2000),
    residual=st.sampled_from([8, 16, 64, 128]),
    window=st.integers(0, 300),
    readable_from=st.integers(0, 2000),
)
def test_rough_values(position: int, residual: int, window: int, readable_from: int) -> None:
    readable_from = min(readable_from, position)
    rough = rough_values(position, residual, window, readable_from)
    ends = range(0, position + 1, residual)  # of runs; a query is past a run's end by position - end tokens
    assert rough == max(readable_from, *(end for end in ends if end == 0 or position - end >= window))
    assert position + 1 - rough <= residual + window
    assert rough <= position, "a query's own value is exact"
    assert rough_values(position + 1, residual, window, readable_from) >= rough


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_merging_two_contexts_is_attention_over_both(first: int, second: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(6, 16, generator=generator) * 3
    key, value = torch.randn(2, 2, first + second, 16, generator=generator)
    a = attention_over(query, key[:, :first], value[:, :first], 0.25)
    b = attention_over(query, key[:, first:], value[:, first:], 0.25)
    out, lse = attention_over(query, key, value, 0.25)
    merged, merged_lse = merge(*a, *b)
    torch.testing.assert_close(merged, out, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(merged_lse, lse, atol=2e-6, rtol=1e-5)


def test_attention_is_softmax_per_query_head(seeded: torch.Generator) -> None:
    query, key, value = (torch.randn(*shape, generator=seeded) for shape in ((6, 8), (2, 5, 8), (2, 5, 8)))
    out, _ = attention_over(query, key, value, 0.5)
    for head in range(6):
        weights = (key[head // 3] @ query[head] * 0.5).softmax(0)
        torch.testing.assert_close(out[head], weights @ value[head // 3])


@pytest.mark.parametrize(("exact_keys", "exact_values"), [(3, 3), (3, 0), (3, 50), (131, 7), (131, 131)])
def test_attend_reads_closed_tokens_from_pages_and_open_ones_as_given(
    exact_keys: int, exact_values: int, seeded: torch.Generator
) -> None:
    layout = PRESETS["k4v4"].layout(64, 128)
    pages = torch.full((3, 1, layout.record_bytes), 0xFF, dtype=torch.uint8)
    key, value = torch.randn(2, 131, 1, 64, generator=seeded)
    store_keys(layout, pages, torch.tensor([2]), torch.tensor([0]), key[None, :128], False)
    slots = torch.cat([2 * 128 + torch.arange(128), torch.arange(3)])
    store_values(layout, pages, slots, value, False)
    blocks = torch.tensor([2, 0])
    stored_key, stored_value = load_blocks(layout, pages, blocks)
    query = torch.randn(4, 64, generator=seeded)
    given_key, given_value = torch.randn(2, 1, 131, 64, generator=seeded)
    given_key, given_value = given_key[:, :exact_keys], given_value[:, :exact_values]
    wanted = attention_over(
        query,
        torch.cat([stored_key[:, : 131 - exact_keys], given_key], 1),
        torch.cat([stored_value[:, : 131 - exact_values], given_value], 1),
        0.125,
    )[0]
    assert attend(layout, pages, blocks, query, given_key, given_value, 131, 0.125).equal(wanted)
