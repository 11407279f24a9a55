"""store_groups against reference.store_groups: identical bytes without clipping, equal errors with it."""

from __future__ import annotations

import pytest
import torch

from vllm_kivi import reference
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.store import store_groups
from vllm_kivi.layout import CacheLayout

HEADS = 2


def tokens_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Keys or values whose channels differ in range, as keys do."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp2(torch.randint(-4, 4, shape[-1:], generator=generator).float())
    return (torch.randn(shape, generator=generator) * spread + torch.randn(shape[-1:], generator=generator)).to(dtype)


def poisoned_pages(layout: CacheLayout, blocks: int) -> torch.Tensor:
    return torch.full((blocks, HEADS, layout.record_bytes), 0xA5, dtype=torch.uint8)


def squared_errors(
    layout: CacheLayout, pages: torch.Tensor, block: int, group: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What clipping minimises: per channel of the keys and per token and channel group of the values [G, H, D]."""
    tokens = slice(group * layout.key_group, (group + 1) * layout.key_group)
    k, v = reference.load_blocks(layout, pages, torch.tensor([block]))
    off_k = (k[:, tokens] - key.transpose(0, 1).float()).square().sum(1)
    off_v = (
        (v[:, tokens] - value.transpose(0, 1).float())
        .square()
        .unflatten(-1, (layout.channel_groups, layout.value_group))
        .sum(-1)
    )
    return off_k, off_v


@pytest.mark.parametrize(
    ("preset", "head_size", "block_size", "dtype"),
    [
        ("k4v4", 128, 128, torch.bfloat16),
        ("k4v4", 80, 128, torch.float16),
        ("k4v4", 256, 256, torch.bfloat16),
        ("k4v2", 64, 256, torch.float16),
        ("k4v2", 96, 128, torch.bfloat16),
        ("k2v2", 80, 128, torch.float32),
        ("k2v2", 128, 128, torch.float16),
    ],
    ids=str,
)
def test_bytes_are_the_references(preset: str, head_size: int, block_size: int, dtype: torch.dtype) -> None:
    layout = PRESETS[preset].layout(head_size, block_size)
    shape = (3, layout.key_group, HEADS, head_size)
    key, value = tokens_of(shape, dtype, 1), tokens_of(shape, dtype, 2)
    groups = torch.tensor([layout.key_groups - 1, 0, 0])
    pages = poisoned_pages(layout, 4)
    expected = pages.clone()
    store_groups(layout, pages, torch.tensor([2, -1, 0]), groups, key, value, clipping=False)
    kept = torch.tensor([0, 2])
    reference.store_groups(layout, expected, torch.tensor([2, 0]), groups[kept], key[kept], value[kept], clipping=False)
    assert torch.equal(pages, expected)


@pytest.mark.parametrize(
    ("preset", "head_size", "dtype"), [("k2v2", 64, torch.bfloat16), ("k4v2", 80, torch.float16)], ids=str
)
def test_clipping_is_as_good_as_the_references(preset: str, head_size: int, dtype: torch.dtype) -> None:
    layout = PRESETS[preset].layout(head_size, 128)
    shape = (1, layout.key_group, HEADS, head_size)
    key, value = tokens_of(shape, dtype, 3), tokens_of(shape, dtype, 4)
    at = torch.tensor([1]), torch.tensor([0])
    pages = poisoned_pages(layout, 2)
    expected, plain = pages.clone(), pages.clone()
    store_groups(layout, pages, *at, key, value, clipping=True)
    reference.store_groups(layout, expected, *at, key, value, clipping=True)
    reference.store_groups(layout, plain, *at, key, value, clipping=False)
    got, want, without = (squared_errors(layout, p, 1, 0, key[0], value[0]) for p in (pages, expected, plain))
    for mine, best, unclipped in zip(got, want, without, strict=True):
        torch.testing.assert_close(mine, best, rtol=1e-4, atol=0)
        assert mine.sum() < unclipped.sum()
    assert (pages != expected).float().mean() < 1e-3  # ties alone


def test_degenerate_groups() -> None:
    """Constant, zero, tiny, huge, and values exactly half-way between two codes."""
    layout = CacheLayout(head_size=64, block_size=32, key_bits=4, value_bits=2, key_group=32, value_group=16)
    steps = torch.arange(32)[:, None, None] * 0.5
    key = torch.zeros(1, 32, HEADS, 64)
    key[..., 8:16] = 3.25
    key[..., 16:24] = steps.clamp(max=15.0) - 4.0  # a scale of 1: every other one is a tie
    key[..., 24:32] = 1e-6 * steps
    key[..., 32:40] = -60000.0
    key[:, ::2, :, 40:48] = 1e9
    key[..., 48:] = -0.0
    value = torch.zeros(1, 32, HEADS, 64)
    value[..., :16] = steps + (torch.arange(16) * 0.5).clamp(max=3.0)
    value[..., 16:32] = -0.125
    value[..., 32] = 1e9
    value[..., 48:] = 1e-7 * torch.arange(16)
    pages = poisoned_pages(layout, 1)
    expected = pages.clone()
    at = torch.tensor([0]), torch.tensor([0])
    store_groups(layout, pages, *at, key, value, clipping=False)
    reference.store_groups(layout, expected, *at, key, value, clipping=False)
    assert torch.equal(pages, expected)


def test_tokens_from_ring_and_step() -> None:
    """A group whose first tokens lie in the ring and whose last came in this step, from a fused projection."""
    layout = PRESETS["k2v2"].layout(64, 128)
    group, ring_tokens, computed, slot = layout.key_group, 40, 45, 2
    key, value = tokens_of((64, HEADS, 64), torch.float16, 5), tokens_of((64, HEADS, 64), torch.float16, 6)
    ring_key, ring_value = (
        torch.full((3, HEADS, ring_tokens, 64), float("nan"), dtype=torch.float16) for _ in range(2)
    )
    for position in range(32, computed):
        ring_key[slot, :, position % ring_tokens] = key[position]
        ring_value[slot, :, position % ring_tokens] = value[position]
    fused = torch.full(
        (64 - computed + 1, 3 * HEADS, 64), float("nan"), dtype=torch.float16
    )  # its first token is another row's
    fused[1:, HEADS : 2 * HEADS], fused[1:, 2 * HEADS :] = key[computed:], value[computed:]
    positions = torch.arange(32, 64)
    in_ring = ~(slot * ring_tokens + positions % ring_tokens)
    index = torch.where(positions < computed, in_ring, positions - computed + 1)[None]
    at = torch.tensor([1], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    pages = poisoned_pages(layout, 2)
    expected = pages.clone()
    store_groups(
        layout, pages, *at, fused[:, HEADS : 2 * HEADS], fused[:, 2 * HEADS :], False, index, ring_key, ring_value
    )
    reference.store_groups(layout, expected, *at, key[None, group:], value[None, group:], clipping=False)
    assert torch.equal(pages, expected)


def test_refuses_a_group_it_is_not_built_for() -> None:
    layout = CacheLayout(head_size=64, block_size=48, key_bits=4, value_bits=4, key_group=24, value_group=16)
    pages, at, x = poisoned_pages(layout, 1), torch.tensor([0]), torch.zeros(1, 24, HEADS, 64)
    with pytest.raises(ValueError, match="key_group is 24"):
        store_groups(layout, pages, at, at, x, x, clipping=False)
