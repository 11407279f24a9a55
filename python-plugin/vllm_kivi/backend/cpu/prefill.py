"""Prefill of one row: many queries over its older tokens read quantized and its newest read in full precision."""

from __future__ import annotations

import torch

from vllm_kivi.backend.cpu.kernels import CpuKernels
from vllm_kivi.backend.cpu.metadata import PrefillRow, Segment
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import merge

SLAB_TOKENS = 4096
"""Tokens of quantized context that are dequantized at a time: the bound on scratch, whatever the context length."""

_MASKED = -1e30  # finite, so that a query that sees none of a part's tokens gives it weight 0 in the merge, not NaN


def close_groups(
    kernels: CpuKernels, layout: CacheLayout, pages: torch.Tensor, row: PrefillRow, exact_key: torch.Tensor
) -> None:
    """Quantize the keys of groups that a row's tokens complete into its pages; exact_key as for :func:`attend_row`."""
    group = layout.key_group
    first, last = row.computed // group, row.length // group
    if first == last:
        return
    starts = torch.arange(first, last) * group
    blocks = row.block_ids[starts // layout.block_size].long()
    in_block = starts % layout.block_size // group
    key = exact_key[first * group - row.key_start : last * group - row.key_start].unflatten(0, (last - first, group))
    kernels.store_keys(pages.numpy(), blocks.numpy(), in_block.numpy(), key.contiguous().numpy())


def attend_row(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    query: torch.Tensor,
    exact_key: torch.Tensor,
    exact_value: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of a row's queries, once all values of the step are stored and all its groups closed.

    Args:
        pages: uint8 [blocks, H, record_bytes].
        query: [n, Hq, D].
        exact_key, exact_value: float32 [row.length - row.key_start or row.value_start, H, D], from there on.

    Returns:
        float32 [n, Hq, D].
    """
    n, heads_q, d = query.shape
    heads = exact_key.shape[1]
    q = query.float().view(n, heads, heads_q // heads, d).permute(1, 2, 0, 3).contiguous()  # [H, R, n, D]
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32)
    _attend_near(
        kernels, layout, pages, row, q, exact_key.transpose(0, 1), exact_value.transpose(0, 1), out, lse, scale
    )
    _attend_far(kernels, layout, pages, row, q, out, lse, scale)
    return out.permute(2, 0, 1, 3).reshape(n, heads_q, d)


def _far(segment: Segment, group: int) -> int:
    """Leading tokens, in whole groups, whose keys and values all queries of a segment read quantized."""
    return min(segment.closed, segment.rough // group * group)


def _attend_near(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    q: torch.Tensor,
    exact_key: torch.Tensor,
    exact_value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> None:
    """Attention of each segment over the tokens from :func:`_far` on, into out [H, R, n, D] and lse [H, R, n].

    Each query sees some of these values quantized and the newest exactly: two parts with one softmax.
    """
    group, deepest = layout.key_group, row.segments[-1].closed
    start = _far(row.segments[0], group)
    rough_value = _empty(q, row.length - start)
    kernels.load_values(pages.numpy(), row.block_ids.numpy(), start, row.length, rough_value.numpy())
    mixed = any(_far(segment, group) < segment.closed for segment in row.segments)
    closed_key = _empty(q, deepest - start if mixed else 0)
    if mixed:
        kernels.load_keys(pages.numpy(), row.block_ids.numpy(), start // group, deepest // group, closed_key.numpy())
    for segment in row.segments:
        far, at = _far(segment, group), _queries(row, segment.first, segment.last)
        key = exact_key[:, segment.closed - row.key_start : segment.last - row.key_start]
        if far < segment.closed:
            key = torch.cat([closed_key[:, far - start : segment.closed - start], key], 1)
        position, token = torch.arange(segment.first, segment.last)[:, None], torch.arange(far, segment.last)
        old = (position - row.value_window).clamp_min(0)
        rough = (old // row.value_residual * row.value_residual).clamp_min(row.slot.readable_from)
        first, end = segment.rough, int(rough[-1])
        value = exact_value[:, first - row.value_start : segment.last - row.value_start]
        visible = ((token >= rough) & (token <= position))[:, first - far :]
        out[:, :, at], lse[:, :, at] = _attend(q[:, :, at], key[:, first - far :], value, scale, visible)
        if end > far:
            value, visible = rough_value[:, far - start : end - start], (token < rough)[:, : end - far]
            part = _attend(q[:, :, at], key[:, : end - far], value, scale, visible)
            out[:, :, at], lse[:, :, at] = merge(out[:, :, at], lse[:, :, at], *part)


def _attend_far(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    q: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> None:
    """Merge attention over the tokens before :func:`_far` into out [H, R, n, D] and lse [H, R, n], a slab at a time."""
    group = layout.key_group
    deepest = _far(row.segments[-1], group)
    if deepest == 0:
        return
    slab = min(SLAB_TOKENS // group * group, deepest)
    key, value = _empty(q, slab), _empty(q, slab)
    for start in range(0, deepest, slab):
        end = min(start + slab, deepest)
        kernels.load_keys(pages.numpy(), row.block_ids.numpy(), start // group, end // group, key.numpy())
        kernels.load_values(pages.numpy(), row.block_ids.numpy(), start, end, value.numpy())
        for first, last, tokens in _readers(row, group, start, end):
            at = _queries(row, first, last)
            part = _attend(q[:, :, at], key[:, :tokens], value[:, :tokens], scale, None)
            out[:, :, at], lse[:, :, at] = merge(out[:, :, at], lse[:, :, at], *part)


def _readers(row: PrefillRow, group: int, start: int, end: int) -> list[tuple[int, int, int]]:
    """(first query, end, tokens read) of the slab [start, end); the queries that read all of it come as one."""
    reads = [(segment.first, segment.last, _far(segment, group)) for segment in row.segments]
    partial = [(first, last, far - start) for first, last, far in reads if start < far < end]
    whole = [(first, last) for first, last, far in reads if far >= end]
    return partial + ([(whole[0][0], whole[-1][1], end - start)] if whole else [])


def _queries(row: PrefillRow, first: int, last: int) -> slice:
    """Where the queries at positions [first, last) lie among the row's."""
    return slice(first - row.computed, last - row.computed)


def _empty(q: torch.Tensor, tokens: int) -> torch.Tensor:
    """Scratch float32 [H, tokens, D] for dequantized keys or values."""
    return torch.empty(q.shape[0], tokens, q.shape[-1], dtype=torch.float32)


def _attend(
    q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, visible: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [H, R, n, D] and log-sum-exp [H, R, n] of q [H, R, n, D] over the visible [n, S] of key, value [H, S, D].

    A query that sees nothing has a log-sum-exp so low that :func:`merge` gives its output no weight.
    """
    heads, ratio, n, d = q.shape
    if key.shape[1] == 0:
        return torch.zeros_like(q), q.new_full(q.shape[:-1], _MASKED)
    mask = None
    if visible is not None:  # the queries of one KV head are stacked
        mask = (
            torch.zeros(visible.shape, dtype=torch.float32).masked_fill_(~visible, _MASKED).repeat(ratio, 1)[None, None]
        )
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.reshape(1, heads, ratio * n, d), key[None], value[None], attn_mask=mask, scale=scale
    )
    return out.view(heads, ratio, n, d), lse.view(heads, ratio, n)
