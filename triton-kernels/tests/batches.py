"""A made-up step of a batch: pages and rings as earlier steps left them, and what the step must leave and give.

On a GPU where there is one, else on the CPU under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vllm_kivi import reference
from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.append import append_tokens
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.decode import takes
from vllm_kivi.kernels.few import attend_few, new_plan, new_scratch, plan_few
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.many import Pair, attend_many, store_many
from vllm_kivi.kernels.staging import stage_newest
from vllm_kivi.layout import staged_bytes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

UNWRITTEN = 143
"""Bytes of rings where no token was staged: as codes and exponent, numbers that would be seen."""

UNSTORED = 255
"""Bytes of pages where nothing was stored: as zeros and scales, not even numbers."""


def tokens_of(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Keys or values whose channels differ in range, as keys do."""
    spread = torch.exp2(torch.randint(-2, 2, shape[-1:], generator=generator).float())
    middle = torch.randn(shape[-1:], generator=generator)
    return (torch.randn(shape, generator=generator) * spread * 0.5 + middle).to(dtype)


Attention = Callable[["Step", Pair], object]
"""Attends a step's queries, with its keys and values as rings hold them, into its ``out``."""


@dataclass(frozen=True)
class Row:
    """A row of the batch: tokens before the step, tokens of the step, tokens restored by a prefix hit."""

    before: int
    count: int
    readable_from: int = 0


class Step:
    """One step.

    Args:
        rows: a row of no tokens is padding.
        heads, ratio: KV heads, and query heads of each.
        drafts: tokens that the rings can hold beyond groups and windows.
        spoil: changes what the model gives (``raw_key`` and so on) before anything is made of it.
    """

    def __init__(
        self,
        config: KiviConfig,
        rows: list[Row],
        head_size: int,
        heads: int,
        ratio: int,
        dtype: torch.dtype,
        block_size: int = 128,
        drafts: int = 0,
        seed: int = 0,
        spoil: Callable[[Step], object] | None = None,
    ) -> None:
        self.config, self.rows, self.dtype, self.block_size = config, rows, dtype, block_size
        self.layout = config.layout(head_size, block_size)
        self.windows = windows_of(config)
        self.scale = head_size**-0.5
        generator = torch.Generator().manual_seed(seed)
        lengths = [row.before + row.count if row.count else 0 for row in rows]
        self.lengths = lengths
        self.raw_key = [tokens_of((n, heads, head_size), dtype, generator) for n in lengths]
        self.raw_value = [tokens_of((n, heads, head_size), dtype, generator) for n in lengths]
        self.raw_query = [tokens_of((row.count, heads * ratio, head_size), dtype, generator) for row in rows]
        if spoil is not None:
            spoil(self)
        self.key, self.value = ([self._staged(x) for x in raw] for raw in (self.raw_key, self.raw_value))

        most = max(-(-n // block_size) for n in lengths)
        ids = torch.randperm(1 + len(rows) * most, generator=generator)[: len(rows) * most] + 1
        self.table = ids.view(len(rows), most).int()
        self.slots = torch.randperm(len(rows), generator=generator).int()
        self.before_pages = torch.full(
            (2 + len(rows) * most, heads, self.layout.record_bytes), UNSTORED, dtype=torch.uint8
        )
        self.ring_key, self.ring_value = (
            torch.full((len(rows) + 1, heads, tokens, staged_bytes(head_size)), UNWRITTEN, dtype=torch.uint8)
            for tokens in (config.key_staging_tokens(drafts), config.value_staging_tokens(drafts))
        )
        for r, row in enumerate(rows):
            if row.count:
                self._store(self.before_pages, r, 0, row.before)
                self._stage(r, row.readable_from, row.before)

    def _staged(self, x: torch.Tensor) -> torch.Tensor:
        """Keys or values as the cache takes them; in the model's dtype, which holds them exactly."""
        return reference.stage(reference.prepare(x.float(), self.config.rotation)).to(self.dtype)

    def _slots_of(self, row: int, first: int, last: int) -> torch.Tensor:
        position = torch.arange(first, last)
        return self.table[row, position // self.block_size].long() * self.block_size + position % self.block_size

    def _store(self, pages: torch.Tensor, row: int, first: int, last: int) -> None:
        group = self.layout.key_group
        closed = torch.arange(first // group, last // group)
        if closed.numel():
            keys = self.key[row][closed[0] * group : (closed[-1] + 1) * group].unflatten(0, (-1, group))
            blocks = self.table[row, closed * group // self.block_size].long()
            in_block = closed % self.layout.key_groups
            reference.store_keys(self.layout, pages, blocks, in_block, keys, self.config.clipping)
        slots, value = self._slots_of(row, first, last), self.value[row][first:last]
        reference.store_values(self.layout, pages, slots, value, self.config.clipping)

    def _stage(self, row: int, first: int, last: int) -> None:
        for ring, source in ((self.ring_key, self.key), (self.ring_value, self.value)):
            tokens = ring.shape[2]
            for position in range(max(first, last - tokens), last if tokens else 0):
                ring[self.slots[row], :, position % tokens] = reference.stage_bytes(source[row][position])

    def expected_pages(self) -> torch.Tensor:
        pages = self.before_pages.clone()
        for r, row in enumerate(self.rows):
            if row.count:
                self._store(pages, r, row.before, self.lengths[r])
        return pages

    def expected_output(self) -> torch.Tensor:
        """Float32 [tokens, Hq, D]."""
        pages, config, out = self.expected_pages(), self.config, []
        for r, row in enumerate(self.rows):
            for i in range(row.count):
                position = row.before + i
                closed = reference.closed_keys(position, config.key_group, config.key_window, row.readable_from)
                rough = reference.rough_values(position, config.value_residual, config.value_window, row.readable_from)
                query = self.raw_query[r][i].float()
                got = reference.attend(
                    self.layout,
                    pages,
                    self.table[r],
                    reference.rotate(query) if config.rotation else query,
                    self.key[r][closed : position + 1].transpose(0, 1),
                    self.value[r][rough : position + 1].transpose(0, 1),
                    position + 1,
                    self.scale,
                )
                out.append(reference.rotate(got) if config.rotation else got)
        return torch.stack(out)

    # --- the kernels' side --------------------------------------------------------------------------------------------

    def ready(self, device: str = DEVICE) -> Step:
        """Put what the kernels see on a device."""
        starts = torch.tensor([0, *(row.count for row in self.rows)]).cumsum(0).int()
        self.batch = Batch(
            *(
                x.to(device)
                for x in (
                    starts,
                    torch.tensor(self.lengths).int(),
                    self.table,
                    self.slots,
                    torch.tensor([row.readable_from for row in self.rows]).int(),
                )
            )
        )
        self.pages = self.before_pages.to(device, copy=True)
        self.rings = self.ring_key.to(device, copy=True), self.ring_value.to(device, copy=True)
        self.slot_mapping = torch.cat(
            [self._slots_of(r, row.before, row.before + row.count) for r, row in enumerate(self.rows)]
        ).to(device)
        self.fresh_query = torch.cat(self.raw_query).to(device)
        self.fresh_key, self.fresh_value = (
            torch.cat([x[row.before :] if row.count else x for x, row in zip(raw, self.rows, strict=True)]).to(device)
            for raw in (self.raw_key, self.raw_value)
        )
        self.out = torch.full(self.fresh_query.shape, float("nan"), device=device)
        return self

    def run_few(self, splits: int) -> None:
        """The way of decode and verification."""
        config, queries = self.config, max(row.count for row in self.rows)
        rotated_query = torch.empty(self.fresh_query.shape, device=self.out.device)
        tokens, query_heads = self.out.shape[:2]
        rows, heads, device = len(self.rows), self.pages.shape[1], self.out.device
        scratch = new_scratch(self.layout, rows, tokens * (1 + splits), heads, query_heads, device)
        plan = None
        if device.type == "cuda" and queries == 1 and takes(self.layout, self.windows, query_heads // heads):
            plan = new_plan(self.layout, rows, heads, device)
            plan_few(self.layout, self.windows, plan, self.batch, self.slot_mapping, heads)
        append_tokens(
            self.layout, self.pages, self.batch, self.slot_mapping, self.fresh_query, self.fresh_key, self.fresh_value,
            rotated_query, *self.rings, config.clipping, config.rotation, plan,
        )  # fmt: skip
        attend_few(
            self.layout, self.windows, self.out, rotated_query, self.pages, self.batch, *self.rings, self.scale,
            scratch, splits, queries, self.dtype, config.rotation, plan,
        )  # fmt: skip
        assert not scratch.arrived.any()

    def run_many(self, attention: Attention | None = None) -> None:
        """The way of prefill and chunks, with attend.py's kernel or another attention."""
        config = self.config
        staged = torch.empty_like(self.fresh_key), torch.empty_like(self.fresh_value)
        fresh = self.fresh_key, self.fresh_value
        store_many(
            self.layout, self.pages, self.batch, self.slot_mapping, staged, fresh, self.rings, config.clipping,
            config.rotation,
        )  # fmt: skip
        if attention is None:
            rotated = torch.empty_like(self.out)
            attend_many(
                self.layout, self.windows, self.out, self.fresh_query, rotated, self.pages, self.batch, self.rings,
                staged, self.scale, config.rotation,
            )  # fmt: skip
        else:
            attention(self, staged)
        stage_newest(self.rings, self.batch, staged)

    # --- comparisons --------------------------------------------------------------------------------------------------

    def output_error(self) -> float:
        """Norm of the difference over the norm of the reference; NaN where an element was not written."""
        want = self.expected_output()
        return ((self.out.cpu() - want).norm() / want.norm()).item()

    def wrong_bytes(self) -> int:
        """Bytes of the pages that differ from the reference's."""
        return int((self.pages.cpu() != self.expected_pages()).sum())

    def ring_error(self) -> float:
        """The largest difference of a staged token that a later step may read from what was to be staged."""
        worst = 0.0
        for r, row in enumerate(self.rows):
            if not row.count:
                continue
            end = self.lengths[r]
            closed = reference.closed_keys(end, self.config.key_group, self.config.key_window, row.readable_from)
            rough = reference.rough_values(end, self.config.value_residual, self.config.value_window, row.readable_from)
            for ring, source, first in ((self.rings[0], self.key, closed), (self.rings[1], self.value, rough)):
                for position in range(first, end):
                    got = reference.unstage(ring[self.slots[r], :, position % ring.shape[2]].cpu())
                    worst = max(worst, (got - source[r][position].float()).abs().max().item())
        return worst
