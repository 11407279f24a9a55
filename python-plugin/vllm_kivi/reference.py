"""The meaning of every KIVI operation, in plain PyTorch. Kernels are tested against this file; it is built to be read.

Letters: ``N`` key groups or blocks, ``G`` tokens of a key group, ``T`` tokens of a block, ``H`` KV heads, ``Hq`` query
heads, ``D`` channels of a head, ``S`` tokens of a context. Arithmetic is float32 throughout.

Scheme: Liu et al., "KIVI", ICML 2024, arXiv:2402.02750 (keys per channel, values per token, the open group in full
precision). Rotation: Ashkboos et al., "QuaRot", NeurIPS 2024, arXiv:2404.00456.

Not a number, infinite, or beyond :data:`LARGEST`: :func:`admit` says what becomes of such keys and values, before
anything is staged or stored. So rings and pages hold finite numbers only, and what attention masks by a weight of zero
stays without effect: no token can reach another request, or an earlier token of its own. Queries are not looked at; one
that is not finite spoils its own output alone.
"""

from __future__ import annotations

import functools
import math

import torch

from vllm_kivi.layout import STAGING_BLOCK, CacheLayout

CLIP_RATIO = 0.875
"""The middle part of a group's range that codes of two bits cover where a format clips.

A fixed part, not the one with the least squared error of a group: that is smaller, 0.6 to 0.8, and costs attention more
than it saves, because the numbers that it cuts off weigh most. KL divergence to bf16 of SmolLM2-135M with k2v2: 0.059
with 0.875, 0.085 with the whole range, 0.123 with the least squared error.
"""

LARGEST = 32512.0
"""Largest magnitude of a key's or value's channel in a cache, 127 * 2^8: exact in eight bits with an exponent, bfloat16
and float16, and what a page gives back for it (at most 1 + 2^-5 + 2^-8 times as much) is a float16 too."""

_F32_EXPONENT_SHIFT = (127 - 15) << 23
_LARGEST_EXPONENT = 127 + 8
_SMALLEST = 2.0**-14
_LARGEST_ZERO = 65408.0
_LARGEST_SCALE = 64512.0


# --- Hadamard rotation ------------------------------------------------------------------------------------------------


@functools.cache
def hadamard(head_size: int) -> torch.Tensor:
    """Orthonormal, symmetric Hadamard matrix [D, D], float32.

    For a head size that is no power of two: block-diagonal, in blocks of the largest power of two that divides D.
    """
    order = head_size & -head_size
    # vLLM changes both defaults while it loads a model, and takes a GPU's memory away when it sleeps: this is kept.
    block = torch.ones(1, 1, dtype=torch.float32, device="cpu")
    while block.shape[0] < order:
        block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)], 0)
    matrix: torch.Tensor = torch.block_diag(*[block / math.sqrt(order)] * (head_size // order))
    return matrix


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotate the last dimension [..., D]; its own inverse. Result in x's dtype, computed in float32."""
    return (x.float() @ hadamard(x.shape[-1]).to(x.device)).to(x.dtype)


# --- what is not finite, or too large ---------------------------------------------------------------------------------


def admit(x: torch.Tensor) -> torch.Tensor:
    """Keys or values as the cache takes them, float32: NaN as 0, beyond :data:`LARGEST` (infinite too) as that."""
    return x.float().nan_to_num(0.0).clamp(-LARGEST, LARGEST)


def prepare(x: torch.Tensor, rotation: bool) -> torch.Tensor:
    """Keys or values [..., D] as they are staged and stored: admitted, rotated if the format rotates; x's dtype."""
    return (rotate(admit(x)).clamp(-LARGEST, LARGEST) if rotation else admit(x)).to(x.dtype)


# --- scale and zero ---------------------------------------------------------------------------------------------------


def encode(zero: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Three-byte form (int32 tensors: uint16 and uint8 values) of float32 zero and positive scale; see layout.py.

    Rounds to nearest, halves away from zero; a scale is at least 2^-14 (never 0), a zero below 2^-14 becomes 0; both
    saturate at the format's largest value.
    """
    bits = zero.float().clamp(-_LARGEST_ZERO, _LARGEST_ZERO).contiguous().view(torch.int32)
    magnitude = ((bits & 0x7FFFFFFF) + (1 << 14)) >> 15
    magnitude = (magnitude - (_F32_EXPONENT_SHIFT >> 15)).clamp(max=0x1EFF)
    magnitude = torch.where(magnitude < 1 << 8, torch.zeros_like(magnitude), magnitude)
    zero_bits = ((bits >> 16) & 0x8000) | (magnitude << 2)
    code = ((scale.float().clamp(_SMALLEST, _LARGEST_SCALE).contiguous().view(torch.int32) + (1 << 17)) >> 18) - (
        _F32_EXPONENT_SHIFT >> 18
    )
    code = code.clamp(max=0x3DF)
    return zero_bits | (code & 3), code >> 2


def decode(zero_bits: torch.Tensor, scale_bits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 zero and scale of their three-byte form."""
    zero_bits, scale_bits = zero_bits.to(torch.int32), scale_bits.to(torch.int32)
    magnitude = (zero_bits & 0x7FFC) << 13
    magnitude = torch.where(magnitude == 0, magnitude, magnitude + _F32_EXPONENT_SHIFT)
    zero = (magnitude | ((zero_bits & 0x8000) << 16)).view(torch.float32)
    scale = ((((scale_bits << 2) | (zero_bits & 3)) << 18) + _F32_EXPONENT_SHIFT).view(torch.float32)
    return zero, scale


# --- staging ----------------------------------------------------------------------------------------------------------


def stage_bytes(x: torch.Tensor) -> torch.Tensor:
    """What a ring on a GPU holds of finite x [..., D], uint8 [..., staged bytes]: int8 codes, then exponents; see
    layout.py. Saturates at :data:`LARGEST`."""
    blocks = x.float().unflatten(-1, (-1, STAGING_BLOCK))
    exponent = ((blocks.abs().amax(-1).contiguous().view(torch.int32) >> 23) - 6).clamp(1, _LARGEST_EXPONENT)
    inverse = ((254 - exponent) << 23).view(torch.float32)
    codes = (blocks * inverse[..., None] + 0.5).floor().clamp(-127, 127)
    return torch.cat([codes.flatten(-2).to(torch.int8).view(torch.uint8), exponent.to(torch.uint8)], -1)


def unstage(tokens: torch.Tensor) -> torch.Tensor:
    """Float32 [..., D] of a ring's tokens on a GPU, uint8 [..., staged bytes]."""
    d = tokens.shape[-1] * STAGING_BLOCK // (STAGING_BLOCK + 1)
    unit = (tokens[..., d:].to(torch.int32) << 23).view(torch.float32)
    codes = tokens[..., :d].contiguous().view(torch.int8).unflatten(-1, (-1, STAGING_BLOCK))
    values: torch.Tensor = (codes * unit[..., None]).flatten(-2)
    return values


def stage(x: torch.Tensor) -> torch.Tensor:
    """x [..., D] as a ring on a GPU gives it back, float32; staging it again changes nothing."""
    return unstage(stage_bytes(x))


# --- quantization -----------------------------------------------------------------------------------------------------


def clip_ratio(bits: int, clipping: bool) -> float:
    """The middle part of a group's range that its codes cover: with four bits the whole is as good."""
    return CLIP_RATIO if clipping and bits == 2 else 1.0


def quantize(x: torch.Tensor, bits: int, dim: int, clipping: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Asymmetric quantization of finite x; the elements along ``dim`` share a zero and a scale.

    Returns:
        codes (uint8, shape of x), zero_bits and scale_bits (int32, shape of x with ``dim`` of size 1).
    """
    x = x.float()
    top, ratio = float(2**bits - 1), clip_ratio(bits, clipping)
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    zero_bits, scale_bits = encode(low + (high - low) * ((1.0 - ratio) / 2), (high - low) * (ratio / top))
    zero, scale = decode(zero_bits, scale_bits)
    codes = ((x - zero) * (1.0 / scale) + 0.5).floor().clamp(0, top)
    return codes.to(torch.uint8), zero_bits, scale_bits


def pack(codes: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Pack uint8 codes along ``dim`` of size D into D * bits / 8 bytes: byte j holds codes j, j + D/P, j + 2 D/P."""
    parts = codes.chunk(8 // bits, dim)
    packed = torch.zeros_like(parts[0])
    for i, part in enumerate(parts):
        packed |= part << (bits * i)
    return packed


def unpack(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    mask = 2**bits - 1
    return torch.cat([(packed >> (bits * i)) & mask for i in range(8 // bits)], dim)


# --- records ----------------------------------------------------------------------------------------------------------


class Sections:
    """Views of the sections of records [..., record_bytes] (uint8); writing to a view writes to the page."""

    def __init__(self, layout: CacheLayout, records: torch.Tensor) -> None:
        t, d, lead = layout.block_size, layout.head_size, records.shape[:-1]

        def view(start: int, *shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
            size = math.prod(shape) * dtype.itemsize
            section: torch.Tensor = records[..., start : start + size].view(dtype).unflatten(-1, shape)
            return section

        self.key_codes = view(layout.key_codes_offset, t, layout.key_code_bytes)  # [..., T, D / Pk]
        self.value_codes = view(layout.value_codes_offset, layout.value_code_rows, t)  # [..., D / Pv, T]
        self.key_zeros = view(layout.key_zeros_offset, layout.key_groups, d, dtype=torch.uint16)
        self.value_zeros = view(layout.value_zeros_offset, layout.channel_groups, t, dtype=torch.uint16)
        self.key_scales = view(layout.key_scales_offset, layout.key_groups, d)
        self.value_scales = view(layout.value_scales_offset, layout.channel_groups, t)
        assert self.key_codes.shape[:-2] == lead


def store_keys(
    layout: CacheLayout,
    pages: torch.Tensor,
    block_ids: torch.Tensor,
    group_in_block: torch.Tensor,
    key: torch.Tensor,
    clipping: bool,
) -> None:
    """Close key groups: quantize their keys and write them into their pages.

    Args:
        pages: uint8 [blocks, H, record_bytes], changed in place.
        block_ids, group_in_block: int64 [N], where each group goes.
        key: [N, G, H, D], already rotated if the format rotates.
    """
    g = layout.key_group
    codes, zero, scale = quantize(key.transpose(1, 2), layout.key_bits, 2, clipping)  # [N, H, G, D]
    packed = pack(codes, layout.key_bits, 3)  # [N, H, G, D / Pk]
    for n, (block, group) in enumerate(zip(block_ids.tolist(), group_in_block.tolist(), strict=True)):
        to = Sections(layout, pages[block])
        to.key_codes[:, group * g : (group + 1) * g] = packed[n]
        to.key_zeros[:, group] = zero[n, :, 0].to(torch.uint16)
        to.key_scales[:, group] = scale[n, :, 0].to(torch.uint8)


def store_values(
    layout: CacheLayout, pages: torch.Tensor, slots: torch.Tensor, value: torch.Tensor, clipping: bool
) -> None:
    """Quantize values, token by token, and write them into their pages.

    Args:
        pages: uint8 [blocks, H, record_bytes], changed in place.
        slots: int64 [n], block * T + token of the block; a negative one skips its token (vLLM's slot mapping).
        value: [n, H, D], already rotated if the format rotates.
    """
    codes, zero, scale = quantize(
        value.unflatten(-1, (layout.channel_groups, layout.value_group)), layout.value_bits, -1, clipping
    )
    packed = pack(codes.flatten(-2), layout.value_bits, 2)  # [n, H, D / Pv]
    for n, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        to, token = Sections(layout, pages[slot // layout.block_size]), slot % layout.block_size
        to.value_codes[:, :, token] = packed[n]
        to.value_zeros[:, :, token] = zero[n].squeeze(-1).to(torch.uint16)
        to.value_scales[:, :, token] = scale[n].squeeze(-1).to(torch.uint8)


def load_blocks(layout: CacheLayout, pages: torch.Tensor, block_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of whole blocks as the cache holds them, float32 [H, len(block_ids) * T, D] each."""
    s = Sections(layout, pages[block_ids.long()])  # [N, H, record] sections
    k_zero, k_scale = decode(s.key_zeros, s.key_scales)  # [N, H, T / G, D]
    key = unpack(s.key_codes, layout.key_bits, -1).float()  # [N, H, T, D]
    key = key.unflatten(2, (layout.key_groups, layout.key_group)) * k_scale[:, :, :, None] + k_zero[:, :, :, None]
    v_zero, v_scale = decode(s.value_zeros, s.value_scales)  # [N, H, D / value_group, T]
    value = unpack(s.value_codes, layout.value_bits, -2).float()  # [N, H, D, T]
    value = value.unflatten(2, (layout.channel_groups, layout.value_group))
    value = (value * v_scale[..., None, :] + v_zero[..., None, :]).flatten(2, 3).transpose(2, 3)
    return key.flatten(2, 3).transpose(0, 1).flatten(1, 2), value.transpose(0, 1).flatten(1, 2)


# --- attention --------------------------------------------------------------------------------------------------------


def closed_keys(position: int, key_group: int, key_window: int, readable_from: int = 0) -> int:
    """How many leading tokens' keys the query at ``position`` reads quantized: the groups it is past by the window.

    What a query reads depends on its position alone, so prefill, decode, chunks, drafts and prefix hits agree.
    ``readable_from``: tokens below it exist only quantized (a prefix hit restored them), whatever the window asks for.
    """
    return max(max(position - key_window, 0) // key_group * key_group, readable_from)


def rough_values(position: int, value_residual: int, value_window: int, readable_from: int = 0) -> int:
    """How many leading tokens' values the query at ``position`` reads quantized: whole runs of ``value_residual``.

    ``value_window``, ``readable_from``: as for :func:`closed_keys`.
    """
    return max(max(position - value_window, 0) // value_residual * value_residual, readable_from)


def attention_over(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of one query over one context, in float32.

    Args:
        query: [Hq, D]; key, value: [H, S, D] with S >= 1 and Hq a multiple of H.

    Returns:
        output [Hq, D] and log-sum-exp of the scores [Hq] (natural logarithm).
    """
    heads, _, d = key.shape
    q = query.float().view(heads, -1, d)
    scores = q @ key.float().transpose(1, 2) * scale  # [H, Hq / H, S]
    out = scores.softmax(-1) @ value.float()
    return out.reshape(-1, d), scores.logsumexp(-1).reshape(-1)


def merge(
    out_a: torch.Tensor, lse_a: torch.Tensor, out_b: torch.Tensor, lse_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over two contexts at once from the attention over each: outputs [..., D], log-sum-exps [...]."""
    lse = torch.logaddexp(lse_a, lse_b)
    return out_a * (lse_a - lse).exp()[..., None] + out_b * (lse_b - lse).exp()[..., None], lse


def attend(
    layout: CacheLayout,
    pages: torch.Tensor,
    block_ids: torch.Tensor,
    query: torch.Tensor,
    exact_key: torch.Tensor,
    exact_value: torch.Tensor,
    tokens: int,
    scale: float,
) -> torch.Tensor:
    """One query over the first ``tokens`` tokens of its sequence, some read quantized and the newest exactly.

    Args:
        pages: uint8 [blocks, H, record_bytes]; block_ids: the sequence's blocks in order.
        query: [Hq, D], rotated if the format rotates.
        exact_key, exact_value: [H, n, D] of the newest n tokens, likewise rotated; all before them are read quantized.

    Returns:
        [Hq, D] float32, still rotated.
    """
    key, value = load_blocks(layout, pages, block_ids[: -(-tokens // layout.block_size)])
    key = torch.cat([key[:, : tokens - exact_key.shape[1]], exact_key.float()], 1)
    value = torch.cat([value[:, : tokens - exact_value.shape[1]], exact_value.float()], 1)
    return attention_over(query, key, value, scale)[0]
