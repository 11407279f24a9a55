"""Formats that the CPU kernels are tested in, and sequences laid out the way vLLM would, everything unused poisoned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vllm_kivi.backend.cpu.kernels import CpuKernels, cpu_kernels
from vllm_kivi.cache.staging import Ring
from vllm_kivi.config import KiviConfig, parse_config
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import store_groups


@dataclass(frozen=True)
class Case:
    """One layout, GQA ratio and ring dtype: one set of compiled kernels."""

    name: str
    cache_dtype: str
    head_size: int
    block_size: int
    ratio: int
    ring_dtype: torch.dtype
    heads: int = 2
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def config(self, window: int = 0) -> KiviConfig:
        return parse_config(self.cache_dtype, {**self.settings, "window": window})

    @property
    def layout(self) -> CacheLayout:
        return self.config().layout(self.head_size, self.block_size)

    @property
    def kernels(self) -> CpuKernels:
        return cpu_kernels(self.layout, self.ratio, self.config().clipping)

    @property
    def scale(self) -> float:
        return self.head_size**-0.5


# Numba compiles about 15 s for each, so few, chosen so that every value of every axis occurs once: head sizes 64, 80,
# 96 and 128; all presets; GQA ratios 1, 3, 4 and 8; key groups 32, 64, 128 and 256; one, two and four groups a block;
# rings in float32 and bfloat16; clipping on and off. No axis interacts with another: each is one constant.
CASES = [
    Case("k4v4-d64-r3", "kivi_k4v4", 64, 128, 3, torch.float32),
    Case("k4v2-d128-r4-group64", "kivi_k4v2", 128, 128, 4, torch.bfloat16, settings={"key_group": 64}),
    Case("k2v2-d80-r1", "kivi_k2v2", 80, 128, 1, torch.float32, heads=3),
    Case("k4v4-d96-r8-group256", "kivi_k4v4", 96, 512, 8, torch.bfloat16, heads=1, settings={"key_group": 256}),
]


def poisoned_pages(case: Case, blocks: int) -> torch.Tensor:
    """Pages uint8 [blocks, H, record] of 0xFF: codes at the top, zeros of -131,000, scales of 130,000."""
    return torch.full((blocks, case.heads, case.layout.record_bytes), 0xFF, dtype=torch.uint8)


def random_kv(case: Case, tokens: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values float32 [tokens, H, D] exact in the ring's dtype; two key channels stand out."""
    key, value = torch.randn(2, tokens, case.heads, case.head_size, generator=generator)
    key[..., 3] += 9
    key[..., 7] *= 6
    return key.to(case.ring_dtype).float(), value.to(case.ring_dtype).float()


@dataclass
class Batch:
    """Sequences in pages and rings, with closed groups stored by the reference.

    Attributes:
        key, value: of each sequence, float32 [tokens, H, D].
        block_table: int32 [rows, blocks], in no order, unused entries far out of range.
    """

    case: Case
    key: list[torch.Tensor]
    value: list[torch.Tensor]
    pages: torch.Tensor
    block_table: torch.Tensor
    ring: Ring
    slots: torch.Tensor


def build_batch(case: Case, lengths: list[int], closed: list[int], window: int, generator: torch.Generator) -> Batch:
    """A batch at the moment of decode: ``closed[i]`` tokens of row i in pages, the rest in its ring."""
    layout, group = case.layout, case.layout.key_group
    per_row = [-(-n // layout.block_size) for n in lengths]
    order = torch.randperm(sum(per_row) + 2, generator=generator)
    pages = poisoned_pages(case, len(order))
    table = torch.full((len(lengths), max(per_row) + 1), 2**30, dtype=torch.int32)
    ring = Ring(len(lengths) + 1, case.heads, case.config(window).staging_tokens, case.head_size, case.ring_dtype)
    ring.key.fill_(float("nan"))
    ring.value.fill_(float("nan"))
    slots = torch.randperm(len(lengths) + 1, generator=generator)[: len(lengths)]
    batch = Batch(case, [], [], pages, table, ring, slots)
    used = 0
    for row, (length, done, blocks) in enumerate(zip(lengths, closed, per_row, strict=True)):
        table[row, :blocks] = order[used : used + blocks].int()
        used += blocks
        key, value = random_kv(case, length, generator)
        batch.key.append(key)
        batch.value.append(value)
        positions = torch.arange(done, length)
        ring.write(slots[row].expand(len(positions)), positions, key[done:], value[done:])
        store(case, pages, table[row], 0, done // group, key, value)
    return batch


def store(
    case: Case,
    pages: torch.Tensor,
    block_ids: torch.Tensor,
    first: int,
    last: int,
    key: torch.Tensor,
    value: torch.Tensor,
) -> None:
    """Close groups [first, last) of a sequence by the reference; key, value [tokens, H, D] from token 0 on."""
    if first == last:
        return
    layout = case.layout
    starts = torch.arange(first, last) * layout.key_group
    tokens = slice(first * layout.key_group, last * layout.key_group)
    store_groups(
        layout,
        pages,
        block_ids[starts // layout.block_size].long(),
        starts % layout.block_size // layout.key_group,
        key[tokens].unflatten(0, (-1, layout.key_group)),
        value[tokens].unflatten(0, (-1, layout.key_group)),
        False,  # what the readers are compared on is bytes, whoever chose them; the search is slow in the reference
    )


def ring_array(ring: torch.Tensor) -> np.ndarray:
    """A ring as the kernels take it (NumPy has no bfloat16)."""
    return ring.view(torch.uint16).numpy() if ring.dtype == torch.bfloat16 else ring.numpy()
