"""Append a step's tokens of rows with few of them (decode, verification of drafts), in one launch before the attention.

Some programs take heads of a row: they rotate and stage keys, rotate and quantize values, or rotate queries. Others
close the key groups that the step completes, a few channels at a time, because few rows complete one in most steps and
the step waits for the slowest program, or whole heads where many do; they stage the step's keys for themselves rather
than wait. Where decode.cu can close them, beside its waiting for memory, many are left to it. Meaning:
``reference.rotate``, ``store_values``, ``store_keys``. A draft that completes a group closes it too; if it is rejected,
the group is closed again with the true token before anything reads it. Graph-safe: the grid depends on shapes only.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from vllm_kivi.kernels.decode import closes, few_closing_rows, starts_early
from vllm_kivi.kernels.helpers import PER_ROW, Batch, check_layout, layout_of, overlaps, processors_of
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.quantize import (
    KEY_SLICE,
    key_slices,
    quantize_head,
    quantize_keys,
    store_key_codes,
    store_value_tile,
    store_values,
    takes_tiles,
    value_span,
)
from vllm_kivi.kernels.rotation import rotate
from vllm_kivi.kernels.staging import admit, load_staged, load_staged_columns, write_staged
from vllm_kivi.kernels.tasks import Plan
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import clip_ratio

_HEADS, _ALONE = 2, 12
"""KV heads of a program that stages keys, or takes values or queries; one where so many programs of a multiprocessor
take all: the step waits for each program, and that is done sooner."""

_CLOSERS, _REGISTERS = 16, 128
"""Programs of a multiprocessor that close groups, at most, and registers of a thread, of which so many run at once.
Where few programs close groups and few take heads, ptxas may have more: all run at once anyway."""

_WIDE_CLOSERS = 8
"""Such programs where heads have more than 128 channels, which take registers: as many as ptxas wants."""

_LOOK = (128, 256)
"""Rows that these look through at a time, at least and at most."""


@triton.constexpr_function
def takes_whole_heads(LAYOUT):
    """Whether a program may close all channels of a head at once, with :func:`quantize_head`."""
    return LAYOUT.key_bits == 4 and LAYOUT.head_size % 32 == 0


def rows_that_close_whole_heads(layout: CacheLayout, heads: int, device: torch.device) -> int:
    """How many rows must close a group in one step for programs to take whole heads; 0 where they never do."""
    if not takes_whole_heads(layout):
        return 0
    slices = key_slices(layout)
    programs = _CLOSERS * processors_of(device.index)
    return triton.cdiv(programs * (triton.cdiv(slices, 2) - 1) + 1, heads * slices)


@triton.jit
def _load_rotated(at, live, D: tl.constexpr, ROTATE: tl.constexpr, ADMIT: tl.constexpr):
    """Float32 [ROWS, D padded] of the rows at pointers [ROWS], zeros where not live; and the mask of what exists.

    ADMIT: whether they are keys or values."""
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    c = tl.arange(0, COLUMNS)
    mask = live[:, None] & (c < D)[None, :]
    values = tl.load(at[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if ADMIT:
        values = admit(values)
    if ROTATE:
        values = rotate(values, at.shape[0], COLUMNS, D)
    return values, mask, c


@triton.jit
def _stage_row(to, at, D: tl.constexpr, ROTATE: tl.constexpr):
    """Stage one row into a ring's token."""
    one = tl.arange(0, 1)
    x, _, _ = _load_rotated(at + one, one == 0, D, ROTATE, True)
    write_staged(to + one, x, one == 0, D)


@triton.jit
def _close_slice(record, in_block, ring_at, at, LAYOUT: tl.constexpr, CLIP: tl.constexpr, J: tl.constexpr):
    """Close a group of a head: J packed channels, whose tokens fit the registers."""
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    j = at * J + tl.arange(0, J)
    live = tl.full(ring_at.shape, 1, tl.int1)
    packed = tl.zeros([J, ring_at.shape[0]], tl.int32)
    for part in range(8 // LAYOUT.key_bits):
        if WIDTH % J == 0:
            x = load_staged_columns(ring_at, part * WIDTH + at * J, live, J, J, D)
        else:
            x = load_staged(ring_at[None, :], (part * WIDTH + j)[:, None], (j < WIDTH)[:, None] & live[None, :], D)
        packed |= quantize_keys(record, in_block, x, part, j, LAYOUT, CLIP)
    store_key_codes(record, in_block, packed, j, LAYOUT)


@triton.jit
def _close_groups(
    pages, query_start, seq_lens, block_table, slots, slot_mapping, key, ring_key, stride_page, stride_table,
    stride_token, stride_head, stride_slot, key_tokens, rows, heads, program, programs, LAYOUT: tl.constexpr,
    CLIP: tl.constexpr, STAGED: tl.constexpr, ROTATE: tl.constexpr, J: tl.constexpr, LOOK: tl.constexpr,
):  # fmt: skip
    """Close a program's part of the key groups that the step completes, in slices of J packed channels of a head."""
    G: tl.constexpr = LAYOUT.key_group
    D: tl.constexpr = LAYOUT.head_size
    SLICES: tl.constexpr = (LAYOUT.key_code_bytes + J - 1) // J
    WHOLE: tl.constexpr = takes_whole_heads(LAYOUT)
    for first in range(0, rows, LOOK):
        r = first + tl.arange(0, LOOK)
        starts = tl.load(query_start + r, mask=r < rows, other=0)
        counts = tl.load(query_start + r + 1, mask=r < rows, other=0) - starts
        lengths = tl.load(seq_lens + r, mask=r < rows, other=0)
        ends = lengths // G * G  # of the last whole group
        closes = (counts > 0) & (ends > lengths - counts)
        last = starts + ends - 1 - (lengths - counts)
        closes = closes & (tl.load(slot_mapping + last, mask=closes, other=-1) >= 0)
        rank = tl.cumsum(closes.to(tl.int32), 0)
        closing = tl.sum(closes.to(tl.int32), 0)
        # Of a head, as many slices in a row as leave one item for each program; whole heads where that is half of one.
        span = tl.minimum((closing * heads * SLICES + programs - 1) // programs, SLICES)
        if WHOLE:
            span = tl.where(2 * span >= SLICES, SLICES, span)
        items = (SLICES + span - 1) // tl.maximum(span, 1)  # of a head
        for item in range(program, closing * heads * items, programs):
            chosen = closes & (rank == item // (heads * items) + 1)
            row, head = tl.sum(tl.where(chosen, r, 0), 0), (item // items % heads).to(tl.int64)
            end = tl.sum(tl.where(chosen, ends, 0), 0)
            before = tl.sum(tl.where(chosen, lengths - counts, 0), 0)
            start = tl.sum(tl.where(chosen, starts, 0), 0)
            group = end // G - 1
            block = tl.load(block_table + row.to(tl.int64) * stride_table + group * G // LAYOUT.block_size)
            record = pages + block.to(tl.int64) * stride_page + head * LAYOUT.record_bytes
            slot = tl.load(slots + row).to(tl.int64)
            ring = ring_key + slot * stride_slot + head * key_tokens * STAGED
            # The step's own tokens, one and drafts: other programs write the same bytes, but not before this one reads.
            for token in range(tl.maximum(before, group * G), end):
                fresh = key + head * stride_head + (start + token - before).to(tl.int64) * stride_token
                _stage_row(ring + token % key_tokens * STAGED, fresh, D, ROTATE)
            tl.debug_barrier()
            in_block = group % (LAYOUT.block_size // G)
            ring_at = ring + (group * G + tl.arange(0, G)) % key_tokens * STAGED
            if WHOLE and span == SLICES:
                quantize_head(record, in_block, ring, group * G, key_tokens, STAGED, LAYOUT)
            else:
                for at in range(item % items * span, tl.minimum(item % items * span + span, SLICES)):
                    _close_slice(record, in_block, ring_at, at, LAYOUT, CLIP, J)


@triton.jit(do_not_specialize=["stride_table", "rows", "closers"], do_not_specialize_on_alignment=PER_ROW)
def _append_kernel(
    pages,  # u8 [blocks, H, record]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    block_table,  # i32 [B, blocks of a row]
    slots,  # i32 [B]
    planned,  # i32 [1], with PLANNED: whether there are key groups to close
    slot_mapping,  # int [tokens]
    query,  # [tokens, Hq, D]
    key,  # [tokens, H, D]
    value,  # [tokens, H, D]
    rotated_query,  # [tokens, Hq, D]
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    ring_value,  # likewise
    stride_page,
    stride_table,
    stride_query_token,
    stride_query_head,
    stride_key_token,
    stride_key_head,
    stride_value_token,
    stride_value_head,
    stride_key_slot,
    stride_value_slot,
    key_tokens,
    value_tokens,
    rows,
    heads,
    closers,  # programs that close key groups; they come first, because they take longest
    LAYOUT_SPEC: tl.constexpr,
    KEY_CLIP: tl.constexpr,
    VALUE_CLIP: tl.constexpr,
    STAGED: tl.constexpr,  # bytes of a token in a ring
    RATIO: tl.constexpr,
    ROTATE: tl.constexpr,
    J: tl.constexpr,  # packed channels that are closed at a time
    LOOK: tl.constexpr,
    SPAN: tl.constexpr,
    PLANNED: tl.constexpr,
    OVERLAP: tl.constexpr,  # of this launch with its neighbours
    EARLY: tl.constexpr,  # the next one starts with this one, rather than at its end
    HEADS: tl.constexpr,  # of a program
    ROWS: tl.constexpr,  # HEADS * RATIO, padded
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    D: tl.constexpr = LAYOUT.head_size
    if OVERLAP:
        gdc_wait()
        if EARLY:
            gdc_launch_dependents()  # not sooner: those may rely on what the launches before this one wrote
    program = tl.program_id(0)
    if program < closers:
        closing = True
        if PLANNED:
            closing = tl.load(planned) != 0
        if closing:
            _close_groups(
                pages, query_start, seq_lens, block_table, slots, slot_mapping, key, ring_key, stride_page,
                stride_table, stride_key_token, stride_key_head, stride_key_slot, key_tokens, rows, heads, program,
                closers, LAYOUT, KEY_CLIP, STAGED, ROTATE, J, LOOK,
            )  # fmt: skip
    else:
        tiles = (heads + HEADS - 1) // HEADS
        row, tile = (program - closers) // (3 * tiles), (program - closers) % (3 * tiles)
        start = tl.load(query_start + row)
        count = tl.load(query_start + row + 1) - start
        before = tl.load(seq_lens + row) - count
        slot = tl.load(slots + row).to(tl.int64)
        if tile < tiles:
            h = tile.to(tl.int64) * HEADS + tl.arange(0, HEADS)
            ring = ring_key + slot * stride_key_slot + h * key_tokens * STAGED
            for i in range(count):
                at = key + (start + i).to(tl.int64) * stride_key_token + h * stride_key_head
                fresh, _, _ = _load_rotated(at, h < heads, D, ROTATE, True)
                write_staged(ring + (before + i) % key_tokens * STAGED, fresh, h < heads, D)
        elif tile < 2 * tiles:
            g = (tile - tiles).to(tl.int64) * HEADS + tl.arange(0, HEADS)
            to = ring_value + slot * stride_value_slot + g * value_tokens * STAGED
            for i in range(count):
                token = (start + i).to(tl.int64)
                page_slot = tl.where(g < heads, tl.load(slot_mapping + token).to(tl.int64), -1)
                vector, _, _ = _load_rotated(
                    value + token * stride_value_token + g * stride_value_head, g < heads, D, ROTATE, True
                )
                staged = to + (before + i) % value_tokens * STAGED
                given_back = write_staged(staged, vector, g < heads, D)
                records = pages + g * LAYOUT.record_bytes
                if takes_tiles(LAYOUT):
                    store_value_tile(records, stride_page, page_slot, given_back, LAYOUT, VALUE_CLIP)
                else:
                    tl.debug_barrier()  # this program reads back what it wrote
                    store_values(records, stride_page, page_slot, staged, LAYOUT, VALUE_CLIP, SPAN, True)
        else:
            r = (tile - 2 * tiles).to(tl.int64) * HEADS * RATIO + tl.arange(0, ROWS)
            asked = (tl.arange(0, ROWS) < HEADS * RATIO) & (r < heads * RATIO)
            for i in range(count):
                token = (start + i).to(tl.int64)
                turned, mask, c = _load_rotated(
                    query + token * stride_query_token + r * stride_query_head, asked, D, ROTATE, False
                )
                at = rotated_query + (token * heads * RATIO + r[:, None]) * D + c[None, :]
                tl.store(at, turned.to(rotated_query.dtype.element_ty), mask=mask)


def append_tokens(
    layout: CacheLayout,
    pages: torch.Tensor,
    batch: Batch,
    slot_mapping: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotated_query: torch.Tensor,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    clipping: bool,
    rotation: bool,
    plan: Plan | None = None,
) -> None:
    """Rotate, stage and store the tokens of rows that each have at most a key group of them.

    Args:
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous; changed in place.
        slot_mapping: int32 or int64 [tokens], block * T + token of the block; a negative one writes no page.
        query: [tokens, Hq, D]; key, value: [tokens, H, D]; channels contiguous, not rotated.
        rotated_query: [>= tokens, Hq, D], contiguous; takes the queries for the attention.
        ring_key, ring_value: uint8 [slots, H, ring tokens, staged bytes], contiguous.
        plan: of the step, where decode.cu comes next; without it all key groups are closed here.
    """
    rows, heads, ratio = batch.seq_lens.shape[0], pages.shape[1], query.shape[1] // pages.shape[1]
    launch, closers, programs = _appender(
        layout, rows, heads, ratio, ring_key.shape[3], clipping, rotation, plan is not None, pages.device
    )
    launch(
        (programs, 1, 1),
        (
            pages, batch.query_start, batch.seq_lens, batch.block_table, batch.slots,
            None if plan is None else plan.closing, slot_mapping, query, key, value, rotated_query, ring_key,
            ring_value,
        ),
        pages.stride(0),
        batch.block_table.stride(0),
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        ring_key.stride(0),
        ring_value.stride(0),
        ring_key.shape[2],
        ring_value.shape[2],
        rows,
        heads,
        closers,
    )  # fmt: skip


@functools.cache
def _appender(
    layout: CacheLayout,
    rows: int,
    heads: int,
    ratio: int,
    staged: int,
    clipping: bool,
    rotation: bool,
    planned: bool,
    device: torch.device,
) -> tuple[Launcher, int, int]:
    """What launches it, how many programs close groups, and how many there are."""
    check_layout(layout)
    processors = processors_of(device.index)
    alone = 3 * rows * heads <= _ALONE * processors
    each = 1 if alone else min(_HEADS, triton.next_power_of_2(heads))
    slices = key_slices(layout)
    defers = planned and closes(layout)
    wide = layout.head_size > 128
    most = (
        few_closing_rows(layout, heads, device) * heads * slices
        if defers
        else (_WIDE_CLOSERS if wide else _CLOSERS) * processors
    )
    closers = min(rows * heads * slices, most)
    launch = Launcher(
        _append_kernel,
        13,
        LAYOUT_SPEC=layout.spec,
        KEY_CLIP=clip_ratio(layout.key_bits, clipping),
        VALUE_CLIP=clip_ratio(layout.value_bits, clipping),
        STAGED=staged,
        RATIO=ratio,
        ROTATE=rotation,
        J=KEY_SLICE,
        LOOK=min(max(triton.next_power_of_2(rows), _LOOK[0]), _LOOK[1]),
        SPAN=value_span(layout),
        HEADS=each,
        ROWS=triton.next_power_of_2(each * ratio),
        PLANNED=planned,
        OVERLAP=overlaps(),
        EARLY=overlaps() and starts_early(rows * heads, processors),
        launch_pdl=overlaps(),
        maxnreg=None if wide or (defers and alone) else _REGISTERS,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return launch, closers, closers + rows * 3 * triton.cdiv(heads, each)
