"""Decode on NVIDIA GPUs: decode.cu, compiled by NVRTC for a layout.

What the kernel does not take (rows of several queries, head sizes and windows below), attend.py's Triton kernel does.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from triton.runtime.driver import driver

from vllm_kivi.kernels import nvrtc
from vllm_kivi.kernels.cuda_launch import CudaLaunch
from vllm_kivi.kernels.helpers import overlaps, processors_of
from vllm_kivi.kernels.quantize import key_slices
from vllm_kivi.kernels.tasks import most_tasks
from vllm_kivi.layout import STAGING_TILE, CacheLayout, staged_bytes

if TYPE_CHECKING:
    from vllm_kivi.kernels.attend import Windows
    from vllm_kivi.kernels.helpers import Batch

_SOURCE = Path(__file__).parent / "cuda" / "decode.cu"
_MOST_QUERY_HEADS = 8
"""Of a KV head: one tile of the tensor core instruction. More would spill registers."""

_COPYING = {"sm_90": 228, "sm_100": 228, "sm_103": 228}
"""Architectures with a copy engine (cp.async.bulk) and room for its buffers, in KiB of shared memory."""

_CLOSERS = 6
"""Programs of a multiprocessor that close groups before a decode that would close many: they have to start in every
step, and in most of them for nothing."""

_MOST_STAGED = 20 << 10
"""Bytes of a group's keys in a ring that a thread block takes into shared memory to close it."""

_RESERVED = 1024
"""Bytes of shared memory that CUDA takes for itself in each block."""


@dataclass(frozen=True)
class Blocks:
    """Thread blocks: of how many warps, and how many that a multiprocessor holds."""

    warps: int
    resident: int


_FEW_PAIRS = 3
"""Pairs of a row and a KV head for each multiprocessor, up to which a step has few."""

_PLAIN = Blocks(8, 1), Blocks(4, 3), Blocks(4, 3), Blocks(4, 3)
"""For few rows and heads, for some, for many, for several times as many as run at a time, where every warp loads for
itself: warps hide how long that takes."""

_AHEAD = Blocks(8, 1), Blocks(4, 2), Blocks(2, 4), Blocks(2, 4)
"""The same where records are copied ahead. More warps than eight ask for more bytes at a time, which come more slowly;
small blocks overlap the beginning of one row with the end of another, and split a row less."""

_AHEAD_TWO_BITS = *_AHEAD[:3], Blocks(2, 5)
"""For two-bit values, whose records are small. Not for fewer rows: blocks fill one multiprocessor after another, and
the last would get none."""


def _shapes(layout: CacheLayout, ahead: bool) -> tuple[Blocks, Blocks, Blocks, Blocks]:
    return _PLAIN if not ahead else _AHEAD_TWO_BITS if layout.value_bits == 2 else _AHEAD


def blocks_of(layout: CacheLayout, pairs: int, processors: int, ahead: bool) -> Blocks:
    """Large ones where a step has so few rows and heads that one fills a multiprocessor; for all steps of a CUDA graph.

    Args:
        pairs: rows of the (padded) batch times KV heads.
        ahead: of :func:`copies_ahead`.
    """
    few, some, many, most = _shapes(layout, ahead)
    if pairs <= _FEW_PAIRS * processors:
        return few if pairs <= processors else some
    return many if pairs <= 10 * processors else most


def starts_early(pairs: int, processors: int) -> bool:
    """Whether a step's attention may start while its tokens are still appended; arguments as for :func:`blocks_of`.

    A launch that starts on multiprocessors at work may fetch its instructions only as it comes to them, with all in
    step: 8 to 15 us, seen on an H200. With few blocks that is more than it gains.
    """
    return pairs > _FEW_PAIRS * processors


_OUT = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def takes(layout: CacheLayout, windows: Windows, ratio: int) -> bool:
    """Whether decode.cu is built for a layout, windows, and query heads of a KV head; see its static asserts."""
    words = 32 if layout.key_bits == 4 else 64
    return (
        layout.head_size % words == 0
        and layout.head_size <= 128
        and layout.value_code_rows % 16 == 0
        and layout.value_group % 16 == 0
        and windows.value_residual % 16 == 0
        and windows.value_window <= windows.key_window
        and ratio <= _MOST_QUERY_HEADS
        and nvrtc.compiler_works()
    )


def closes(layout: CacheLayout) -> bool:
    """Whether decode.cu can close the key groups of a format, where :mod:`vllm_kivi.kernels.append` leaves them."""
    apart = max(blocks.warps for blocks in (*_PLAIN, *_AHEAD)) * _tokens_at_once(layout) * 4
    whole_words = layout.head_size % 32 == 0  # of a token in a ring, so that each begins with one
    fits = layout.key_group * staged_bytes(layout.head_size) <= _MOST_STAGED
    return layout.key_bits == 4 and whole_words and layout.key_group % apart == 0 and fits


def few_closing_rows(layout: CacheLayout, heads: int, device: torch.device) -> int:
    """Rows whose key groups append.py closes, at most, of a format that decode.cu can close."""
    return max(_CLOSERS * processors_of(device.index) // (heads * key_slices(layout)), 1)


def blocks_on(layout: CacheLayout, pairs: int, device: int) -> Blocks:
    """Those of :func:`blocks_of` on a GPU."""
    return blocks_of(layout, pairs, processors_of(device), copies_ahead(layout, _architecture(device)))


def blocks_to_fill(layout: CacheLayout, pairs: int, device: int) -> int:
    """Thread blocks that fill a GPU."""
    return processors_of(device) * blocks_on(layout, pairs, device).resident


def most_tasks_on(layout: CacheLayout, rows: int, heads: int, device: int) -> int:
    """Tasks of a step on a GPU, at most; see :func:`vllm_kivi.kernels.tasks.most_tasks`."""
    return most_tasks(rows, heads, blocks_to_fill(layout, rows * heads, device))


@functools.cache
def _architecture(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def decode_rows(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    rings: tuple[torch.Tensor, torch.Tensor],
    scale_log2: float,
    scratch: tuple[torch.Tensor, torch.Tensor],
    arrived: torch.Tensor,
    tasks: torch.Tensor,
    rotation: bool,
) -> None:
    """Rows of one query; arguments as for :func:`vllm_kivi.kernels.attend.attend_splits`.

    Args:
        out: [rows, Hq, D], float32 or of 16 bits, channels contiguous and an even offset apart; written in place.
        query: float32 [rows, Hq, D], contiguous.
        scale_log2: of the scores, times log2(e).
        scratch: float32, of at least as many tokens as there are tasks, and one split.
        arrived: int32 [>= rows, H], zeros, which it leaves.
        tasks: of :func:`vllm_kivi.kernels.tasks.plan_tasks` for :func:`blocks_to_fill`, planned before the tokens were
            appended: this kernel may start while the launch before it ends.
        rotation: rotate the result back.

    Raises:
        KernelError: the kernel does not compile or launch.
    """
    part_out, part_lse = scratch
    heads, query_heads = pages.shape[1], query.shape[1]
    ring_key, ring_value = rings
    ready = _prepared(
        layout, windows, query_heads // heads, rotation, out.dtype, batch.seq_lens.shape[0], heads, query.device.index
    )
    assert part_lse.numel() >= ready.tasks * query_heads
    assert ring_key.shape[2] % STAGING_TILE == 0 == ring_value.shape[2] % STAGING_TILE
    tensors = (
        out, part_out, part_lse, arrived, tasks, query, pages, batch.query_start, batch.seq_lens, batch.block_table,
        batch.slots, batch.readable_from, ring_key, ring_value,
    )  # fmt: skip
    sizes = (
        out.stride(0), out.stride(1), pages.stride(0), batch.block_table.stride(0), ring_key.stride(0),
        ring_value.stride(0), ring_key.shape[2], ring_value.shape[2],
    )  # fmt: skip
    stream = driver.active.get_current_stream(query.device.index)
    ready.launch((heads, ready.tasks, 1), stream, [*[x.data_ptr() for x in tensors], scale_log2, *sizes])


_PARAMETERS = (*("pointer",) * 14, "fp32", *("i32",) * 8)


class _Prepared(NamedTuple):
    """The kernel for steps of as many rows, and how many tasks there are at most."""

    launch: CudaLaunch
    tasks: int


@functools.cache
def _prepared(
    layout: CacheLayout,
    windows: Windows,
    ratio: int,
    rotation: bool,
    out: torch.dtype,
    rows: int,
    heads: int,
    device: int,
) -> _Prepared:
    blocks = blocks_on(layout, rows * heads, device)
    kernel, shared = _compiled(layout, windows, ratio, rotation, out, blocks, device)
    # It waits itself for the launch before it.
    launch = CudaLaunch(kernel, _PARAMETERS, 32 * blocks.warps, shared, overlaps())
    return _Prepared(launch, most_tasks_on(layout, rows, heads, device))


@functools.cache
def copies_ahead(layout: CacheLayout, architecture: str) -> bool:
    """Whether records are copied to shared memory ahead of their use."""
    kib = _COPYING.get(architecture)
    whole = all(offset % 16 == 0 for offset in (layout.value_codes_offset, layout.key_zeros_offset))
    fits = kib is not None and all(
        blocks.resident * (shared_bytes(layout, _MOST_QUERY_HEADS, True, blocks) + _RESERVED) <= kib << 10
        for blocks in _shapes(layout, True)
    )
    return whole and fits


def shared_bytes(layout: CacheLayout, ratio: int, copying: bool, blocks: Blocks) -> int:
    """Shared memory of a thread block; decode.cu asserts it."""
    d = layout.head_size
    keys, values, pairs = 16, 16, 16
    if copying:
        keys = layout.value_codes_offset - layout.key_codes_offset
        values = layout.key_zeros_offset - layout.value_codes_offset
        pairs = layout.record_bytes - layout.key_zeros_offset  # and the next record's
    newest = 2 * STAGING_TILE * (d + 8)  # a tile, before the first values
    buffer = keys + pairs + max(values + pairs, newest)
    last = 4 * (blocks.warps * ratio * (d + 6) + 1)
    query, of_a_warp = 16 * d, _factor_bytes(layout, copying) + 2 * 8  # and two barriers
    with_closing = -(-last // 128) * 128 * copying + _closing_bytes(layout, copying, blocks) if closes(layout) else 0
    return query + blocks.warps * of_a_warp + -(-max(blocks.warps * buffer, last, with_closing) // 8) * 8


def _closing_bytes(layout: CacheLayout, copying: bool, blocks: Blocks) -> int:
    """Shared memory for closing a group, of close.cuh: its tokens, what each of a warp's tokens saw, and the ranges."""
    tokens = layout.key_group * staged_bytes(layout.head_size) if copying else 16
    return tokens + 2 * 4 * layout.head_size * (blocks.warps * _tokens_at_once(layout) + 1)


def _tokens_at_once(layout: CacheLayout) -> int:
    """Those of which a warp reads the keys to close them, in words of packed channels."""
    return 32 // (layout.key_code_bytes // 4)


def _factor_bytes(layout: CacheLayout, copying: bool) -> int:
    """Shared memory of a warp for scales: of factors.cuh, with the sizes of sizes.cuh."""
    chunk = min(layout.key_group, 128 if copying else 64)
    step = 128 if copying and layout.block_size % 128 == 0 and 128 % chunk == 0 else chunk
    key_groups = max(step // layout.key_group, 1)
    return 2 * (key_groups * layout.head_size + layout.channel_groups * step)


def macros(
    layout: CacheLayout,
    windows: Windows,
    ratio: int,
    rotation: bool,
    out: torch.dtype,
    blocks: Blocks,
    copying: bool,
) -> dict[str, int]:
    """What decode.cu is compiled with, without the prefix."""
    return {
        "D": layout.head_size,
        "G": layout.key_group,
        "T": layout.block_size,
        "KB": layout.key_bits,
        "VB": layout.value_bits,
        "VGROUPS": layout.channel_groups,
        "RATIO": ratio,
        "KEY_CODES": layout.key_codes_offset,
        "VALUE_CODES": layout.value_codes_offset,
        "KEY_ZEROS": layout.key_zeros_offset,
        "VALUE_ZEROS": layout.value_zeros_offset,
        "KEY_SCALES": layout.key_scales_offset,
        "VALUE_SCALES": layout.value_scales_offset,
        "RECORD": layout.record_bytes,
        "STAGED": staged_bytes(layout.head_size),
        "TILE": STAGING_TILE,
        "KEY_WINDOW": windows.key_window,
        "VALUE_WINDOW": windows.value_window,
        "VALUE_RESIDUAL": windows.value_residual,
        "WARPS": blocks.warps,
        "BLOCKS": blocks.resident,
        "ROTATE": int(rotation),
        "CLOSES": int(closes(layout)),
        "OUT": _OUT[out],
        "BUFFERED": int(copying),
        "SHARED": shared_bytes(layout, ratio, copying, blocks),
    }


def compile_for(architecture: str, sizes: dict[str, int]) -> bytes:
    """The binary for an architecture ("sm_90"); needs no GPU.

    Args:
        sizes: of :func:`macros`.

    Raises:
        KernelError: with the compiler's words.
    """
    return nvrtc.compile_for(_SOURCE, architecture, {f"KIVI_{name}": size for name, size in sizes.items()})


@functools.cache
def _compiled(
    layout: CacheLayout,
    windows: Windows,
    ratio: int,
    rotation: bool,
    out: torch.dtype,
    blocks: Blocks,
    device: int,
) -> tuple[int, int]:
    """The kernel on a device, and the shared memory of its blocks."""
    architecture = _architecture(device)
    sizes = macros(layout, windows, ratio, rotation, out, blocks, copies_ahead(layout, architecture))
    return nvrtc.load(compile_for(architecture, sizes), "kivi_decode", sizes["SHARED"], device), sizes["SHARED"]
