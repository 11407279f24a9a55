"""Formats that the CPU kernels are tested in, and sequences laid out the way vLLM would, everything unused poisoned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_kivi.backend.cpu.kernels import CpuKernels, cpu_kernels
from vllm_kivi.cache.staging import Ring
from vllm_kivi.config import KiviConfig, parse_config
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import closed_keys, rough_values, store_keys, store_values

RESIDUAL = 16
"""Tokens of a run of values in all cases."""


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

    def config(self, key_window: int = 0, value_window: int = 0) -> KiviConfig:
        windows = {"key_window": key_window, "value_window": value_window, "value_residual": RESIDUAL}
        return parse_config(self.cache_dtype, {**self.settings, **windows})

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
# 96 and 128; all presets; GQA ratios 1, 3, 4 and 8; key groups 32, 64, 128 and 256; one, two and six groups a block;
# rings in float32 and bfloat16; clipping on and off. No axis interacts with another: each is one constant.
CASES = [
    Case("k4v4-d64-r3", "kivi_k4v4", 64, 128, 3, torch.float32),
    Case("k4v2-d128-r4-group64", "kivi_k4v2", 128, 384, 4, torch.bfloat16, settings={"key_group": 64}),
    Case("k2v2-d80-r1", "kivi_k2v2", 80, 192, 1, torch.float32, heads=3),
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
    """Sequences in pages and rings, with what is read quantized stored by the reference.

    Attributes:
        key, value: of each sequence, float32 [tokens, H, D].
        closed, rough: tokens of each sequence whose keys and values are in pages; the later ones are in its rings.
        block_table: int32 [rows, blocks], in no order, unused entries far out of range.
    """

    case: Case
    key: list[torch.Tensor]
    value: list[torch.Tensor]
    closed: list[int]
    rough: list[int]
    pages: torch.Tensor
    block_table: torch.Tensor
    ring: Ring
    slots: torch.Tensor


def build_batch(
    case: Case,
    lengths: list[int],
    generator: torch.Generator,
    key_window: int = 0,
    value_window: int = 0,
    readable_from: list[int] | None = None,
) -> Batch:
    """A batch at the moment of decode: what the newest query reads quantized is in pages, the rest in the rings."""
    layout, config = case.layout, case.config(key_window, value_window)
    floors = readable_from or [0] * len(lengths)
    per_row = [-(-n // layout.block_size) for n in lengths]
    order = torch.randperm(sum(per_row) + 2, generator=generator)
    pages = poisoned_pages(case, len(order))
    table = torch.full((len(lengths), max(per_row) + 1), 2**30, dtype=torch.int32)
    ring = Ring(
        len(lengths) + 1,
        case.heads,
        config.key_staging_tokens(),
        config.value_staging_tokens(),
        case.head_size,
        case.ring_dtype,
    )
    ring.key.fill_(float("nan"))
    ring.value.fill_(float("nan"))
    slots = torch.randperm(len(lengths) + 1, generator=generator)[: len(lengths)]
    closed = [closed_keys(n - 1, layout.key_group, key_window, floor) for n, floor in zip(lengths, floors, strict=True)]
    rough = [rough_values(n - 1, RESIDUAL, value_window, floor) for n, floor in zip(lengths, floors, strict=True)]
    batch = Batch(case, [], [], closed, rough, pages, table, ring, slots)
    used = 0
    for row, (length, blocks) in enumerate(zip(lengths, per_row, strict=True)):
        table[row, :blocks] = order[used : used + blocks].int()
        used += blocks
        key, value = random_kv(case, length, generator)
        batch.key.append(key)
        batch.value.append(value)
        for write, tokens, first in (
            (ring.write_keys, key, closed[row]),
            (ring.write_values, value, rough[row]),
        ):
            if first < length:
                positions = torch.arange(first, length)
                write(slots[row].expand(len(positions)), positions, tokens[first:])
        put_keys(case, pages, table[row], 0, closed[row] // layout.key_group, key)
        put_values(case, pages, table[row], 0, rough[row], value)
    return batch


def put_keys(
    case: Case, pages: torch.Tensor, block_ids: torch.Tensor, first: int, last: int, key: torch.Tensor
) -> None:
    """Close groups [first, last) of a sequence by the reference; key [tokens, H, D] from token 0 on."""
    if first == last:
        return
    layout = case.layout
    starts = torch.arange(first, last) * layout.key_group
    store_keys(
        layout,
        pages,
        block_ids[starts // layout.block_size].long(),
        starts % layout.block_size // layout.key_group,
        key[first * layout.key_group : last * layout.key_group].unflatten(0, (-1, layout.key_group)),
        False,  # what the readers are compared on is bytes, whoever chose them; the search is slow in the reference
    )


def put_values(
    case: Case, pages: torch.Tensor, block_ids: torch.Tensor, first: int, last: int, value: torch.Tensor
) -> None:
    """Store values of tokens [first, last) of a sequence by the reference; value [tokens, H, D] from token 0 on."""
    store_values(case.layout, pages, slot_mapping(case, block_ids, first, last), value[first:last], False)


def slot_mapping(case: Case, block_ids: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Where vLLM puts tokens [first, last) of a sequence, int64: block * block size + token of the block."""
    positions, size = torch.arange(first, last), case.layout.block_size
    return block_ids[positions // size].long() * size + positions % size
