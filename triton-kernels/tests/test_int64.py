"""Offsets past 2^31: blocks, ring slots and tokens far into tensors whose untouched memory is never committed."""

from __future__ import annotations

import torch

from vllm_kivi import reference
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.decode import decode, decode_scratch
from vllm_kivi.kernels.store import store_groups

LAYOUT = PRESETS["k2v2"].layout(64, 128)
GROUP = LAYOUT.key_group
FAR = 2**31 + 4096


def test_pages_and_rings_past_2_31() -> None:
    blocks = FAR // LAYOUT.record_bytes + 2
    pages = torch.empty(blocks, 1, LAYOUT.record_bytes, dtype=torch.uint8)
    slots = FAR // (GROUP * 64) + 2
    ring_key, ring_value = (torch.empty(slots, 1, GROUP, 64, dtype=torch.float16) for _ in range(2))
    assert (blocks - 1) * pages.stride(0) > 2**31
    assert (slots - 1) * ring_key.stride(0) > 2**31
    block, slot = blocks - 1, slots - 1
    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn(GROUP, 1, 64, generator=generator).half() for _ in range(2))
    ring_key[slot], ring_value[slot] = key.transpose(0, 1), value.transpose(0, 1)

    # The group in the far slot goes into the far block ...
    index = ~(slot * GROUP + torch.arange(GROUP))[None]
    at = torch.tensor([block], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    store_groups(LAYOUT, pages, *at, key, value, False, index, ring_key, ring_value)
    expected = torch.zeros(1, 1, LAYOUT.record_bytes, dtype=torch.uint8)
    reference.store_groups(LAYOUT, expected, torch.tensor([0]), torch.tensor([2]), key[None], value[None], False)
    got, want = (
        reference.load_blocks(LAYOUT, pages, torch.tensor([block])),
        reference.load_blocks(LAYOUT, expected, torch.tensor([0])),
    )
    group = slice(2 * GROUP, 3 * GROUP)
    for mine, reference_tokens in zip(got, want, strict=True):
        assert torch.equal(mine[:, group], reference_tokens[:, group])

    # ... and is read from both: once closed (as the block's first group), and once open.
    store_groups(LAYOUT, pages, at[0], at[1] * 0, key, value, False, index, ring_key, ring_value)
    query = torch.randn(1, 2, 64, generator=generator).half()
    out = torch.empty(1, 2, 64)
    lens = torch.tensor([GROUP + 5], dtype=torch.int32)
    scratch = decode_scratch(LAYOUT, 1, 2, 1, out.device)
    table = torch.tensor([[block]], dtype=torch.int32)
    decode(
        LAYOUT,
        out,
        query,
        pages,
        table,
        lens - 5,
        lens,
        torch.tensor([slot], dtype=torch.int32),
        ring_key,
        ring_value,
        0.125,
        scratch,
    )
    attended = reference.attend(
        LAYOUT, pages, table[0], GROUP, query[0], key[:5].transpose(0, 1), value[:5].transpose(0, 1), 0.125
    )
    assert ((out[0] - attended).norm() / attended.norm()).item() < 2e-3


def test_tokens_of_a_step_past_2_31() -> None:
    fresh = torch.empty(FAR // 64 + GROUP, 1, 64, dtype=torch.float16)
    generator = torch.Generator().manual_seed(1)
    fresh[-GROUP:] = torch.randn(GROUP, 1, 64, generator=generator).half()
    assert (fresh.shape[0] - GROUP) * fresh.stride(0) > 2**31
    index = torch.arange(fresh.shape[0] - GROUP, fresh.shape[0])[None]
    pages = torch.zeros(1, 1, LAYOUT.record_bytes, dtype=torch.uint8)
    expected, at = pages.clone(), torch.tensor([0])
    store_groups(LAYOUT, pages, at, at, fresh, fresh, False, index)
    reference.store_groups(LAYOUT, expected, at, at, fresh[None, -GROUP:], fresh[None, -GROUP:], False)
    assert torch.equal(pages, expected)
