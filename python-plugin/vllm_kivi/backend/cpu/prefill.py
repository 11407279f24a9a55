"""Prefill of one row: many queries over closed groups read quantized and open tokens read in full precision."""

from __future__ import annotations

import torch

from vllm_kivi.backend.cpu.kernels import CpuKernels
from vllm_kivi.backend.metadata import PrefillRow
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import merge

SLAB_TOKENS = 4096
"""Tokens of quantized context that are dequantized at a time: the bound on scratch, whatever the context length."""

_MASKED = -1e30  # finite, so that a query without open tokens gets weight 0 in the merge instead of NaN


def close_groups(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    span_key: torch.Tensor,
    span_value: torch.Tensor,
) -> None:
    """Quantize the groups that a row's tokens complete into its pages; the spans are as for :func:`attend_row`."""
    group = layout.key_group
    first, last = row.computed // group, row.length // group
    if first == last:
        return
    tokens = slice(first * group - row.span_start, last * group - row.span_start)
    starts = torch.arange(first, last) * group
    blocks = row.block_ids[starts // layout.block_size].long()
    in_block = starts % layout.block_size // group
    key = span_key[tokens].unflatten(0, (last - first, group)).contiguous()
    value = span_value[tokens].unflatten(0, (last - first, group)).contiguous()
    kernels.store(pages.numpy(), blocks.numpy(), in_block.numpy(), key.numpy(), value.numpy())


def attend_row(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    query: torch.Tensor,
    span_key: torch.Tensor,
    span_value: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of a row's queries, once all groups of the step are closed.

    Args:
        pages: uint8 [blocks, H, record_bytes].
        query: [n, Hq, D]; span_key, span_value: float32 [row.length - row.span_start, H, D] from row.span_start on.

    Returns:
        float32 [n, Hq, D].
    """
    n, heads_q, d = query.shape
    heads = span_key.shape[1]
    q = query.float().view(n, heads, heads_q // heads, d).permute(1, 2, 0, 3).contiguous()  # [H, R, n, D]
    key, value = span_key.transpose(0, 1), span_value.transpose(0, 1)  # [H, span, D]
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32)
    for first, last, closed in row.segments:
        at = slice(first - row.computed, last - row.computed)
        tokens = slice(closed - row.span_start, max(last, closed + 1) - row.span_start)
        if closed >= last:  # a lone query that completes its own group: nothing is open
            out[:, :, at], lse[:, :, at] = 0.0, _MASKED
            continue
        visible = torch.arange(closed, last) <= torch.arange(first, last)[:, None]
        mask = torch.zeros(visible.shape, dtype=torch.float32).masked_fill_(~visible, _MASKED)
        out[:, :, at], lse[:, :, at] = _attend(q[:, :, at], key[:, tokens], value[:, tokens], scale, mask)
    _attend_closed(kernels, layout, pages, row, q, out, lse, scale)
    return out.permute(2, 0, 1, 3).reshape(n, heads_q, d)


def _attend_closed(
    kernels: CpuKernels,
    layout: CacheLayout,
    pages: torch.Tensor,
    row: PrefillRow,
    q: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> None:
    """Merge attention over the closed groups into out [H, R, n, D] and lse [H, R, n], a slab at a time."""
    deepest, group = row.segments[-1][2], layout.key_group
    if deepest == 0:
        return
    slab = min(SLAB_TOKENS // group * group, deepest)
    key = torch.empty(q.shape[0], slab, q.shape[-1], dtype=torch.float32)
    value = torch.empty_like(key)
    for start in range(0, deepest, slab):
        end = min(start + slab, deepest)
        kernels.load(pages.numpy(), row.block_ids.numpy(), start // group, end // group, key.numpy(), value.numpy())
        for first, last, tokens in _readers(row, start, end):
            at = slice(first - row.computed, last - row.computed)
            part, part_lse = _attend(q[:, :, at], key[:, :tokens], value[:, :tokens], scale, None)
            out[:, :, at], lse[:, :, at] = merge(out[:, :, at], lse[:, :, at], part, part_lse)


def _readers(row: PrefillRow, start: int, end: int) -> list[tuple[int, int, int]]:
    """(first query, end, tokens read) of the slab [start, end); the queries that read all of it come as one."""
    partial = [(first, last, closed - start) for first, last, closed in row.segments if start < closed < end]
    whole = [(first, last) for first, last, closed in row.segments if closed >= end]
    return partial + ([(whole[0][0], whole[-1][1], end - start)] if whole else [])


def _attend(
    q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [H, R, n, D] and log-sum-exp [H, R, n] of q [H, R, n, D] over key, value [H, S, D]; adds mask [n, S]."""
    heads, ratio, n, d = q.shape
    if mask is not None:
        mask = mask.repeat(ratio, 1)[None, None]  # the queries of one KV head are stacked
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.reshape(1, heads, ratio * n, d), key[None], value[None], attn_mask=mask, scale=scale
    )
    return out.view(heads, ratio, n, d), lse.view(heads, ratio, n)
