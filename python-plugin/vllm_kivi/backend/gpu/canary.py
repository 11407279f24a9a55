"""Start-up canary on CUDA: every worker stores and reads known tokens and compares with the reference before it serves.

It runs with the model's own head counts, so it also compiles the kernels that serving will launch.
"""

from __future__ import annotations

import functools

import torch

from vllm_kivi import reference
from vllm_kivi.backend.canary import CanaryError, error_ratio
from vllm_kivi.backend.gpu.pieces import least_units, plan_pieces
from vllm_kivi.backend.gpu.prefill import attend_pieces, flash_reach, new_slab, send_pieces
from vllm_kivi.backend.gpu.workspace import empty_rings
from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.append import append_tokens, rows_that_close_whole_heads
from vllm_kivi.kernels.attend import windows_of
from vllm_kivi.kernels.decode import closes, takes
from vllm_kivi.kernels.few import attend_few, new_plan, new_scratch, plan_few
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.many import attend_many, store_many
from vllm_kivi.kernels.repeat import Repeat
from vllm_kivi.kernels.staging import stage_newest
from vllm_kivi.layout import CacheLayout

TOLERANCE = 2e-2
"""RMS error ratio allowed; bfloat16 operands give 3e-3, quantization itself 1e-1."""


@functools.cache
def check_kernels(
    config: KiviConfig,
    layout: CacheLayout,
    heads: int,
    query_heads: int,
    queries: int,
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool,
) -> None:
    """Prefill a block and some tokens, then verify as many more as a row of few may have.

    Args:
        queries: that number; one where nothing is drafted.
        compiled: check decode.cu where it takes the layout, as the engine's metadata will choose.

    Raises:
        CanaryError: which step, the shape, and by how much it is off.
    """
    d, prefilled = layout.head_size, layout.block_size + 2
    count = prefilled + queries
    generator = torch.Generator().manual_seed(0)

    def random(n: int) -> torch.Tensor:  # vLLM changes the default dtype and device while it loads a model
        x = torch.randn(count, n, d, generator=generator, dtype=torch.float32, device="cpu")
        x[:, :, d // 2] += 8  # an outlier channel, as keys have
        return x.to(dtype)

    key, value, query = random(heads), random(heads), random(query_heads)
    table = torch.tensor([[1, 2]], dtype=torch.int32, device=device)
    slot_mapping = torch.arange(count, device=device) + layout.block_size
    scalar = torch.zeros(1, dtype=torch.int32, device=device)

    def batch(first: int, last: int) -> Batch:
        starts = torch.tensor([0, last - first], dtype=torch.int32, device=device)
        return Batch(starts, scalar + last, table, scalar, scalar)

    pages = torch.zeros(3, heads, layout.record_bytes, dtype=torch.uint8, device=device)
    drafts = queries - 1
    ring_key, ring_value = empty_rings(config, 2, heads, d, drafts, device)
    out = torch.zeros(count, query_heads, d, dtype=dtype, device=device)
    windows, scale = windows_of(config), d**-0.5

    few, rings = batch(prefilled, count), (ring_key, ring_value)
    many, chunk = batch(0, prefilled), slice(0, prefilled)
    raw_query, *fresh = (x[chunk].to(device) for x in (query, key, value))
    staged = torch.empty_like(fresh[0]), torch.empty_like(fresh[1])
    spare = torch.empty_like(raw_query)
    store_many(
        layout, pages, many, slot_mapping[chunk], staged, (fresh[0], fresh[1]), rings, config.clipping, config.rotation
    )
    reach = flash_reach(config, d)
    if reach is None:
        attend_many(layout, windows, out[chunk], raw_query, spare, pages, many, rings, staged, scale, config.rotation)
    else:
        units = least_units(reach, prefilled)
        pieces = plan_pieces([0, prefilled], [prefilled], [0], reach, units)
        assert pieces is not None
        slab = new_slab(config, units, heads, d, dtype, device)
        sent = send_pieces(pieces, device)
        attend_pieces(
            layout, sent, Repeat(), slab, out[chunk], spare, raw_query, pages, many, rings, lambda: staged, scale
        )
    stage_newest(rings, many, staged)

    fresh = [x[prefilled:].to(device) for x in (query, key, value)]
    rotated_query = torch.empty(queries, query_heads, d, dtype=torch.float32, device=device)
    scratch, plan = new_scratch(layout, 1, 3 * queries, heads, query_heads, device), None
    slots = slot_mapping[prefilled:]
    if compiled and takes(layout, windows, query_heads // heads):
        plan = new_plan(layout, 1, heads, device)
        plan_few(layout, windows, plan, few, slots, heads)
    append_tokens(
        layout, pages, few, slots, *fresh, rotated_query, ring_key, ring_value, config.clipping, config.rotation,
        plan,
    )  # fmt: skip
    attend_few(
        layout, windows, out[prefilled:], rotated_query, pages, few, ring_key, ring_value, scale, scratch, 2,
        queries, dtype, config.rotation, plan,
    )  # fmt: skip

    check_closing(config, layout, heads, query_heads, dtype, device, plan is not None)
    got = out.cpu().float()
    key, value = (reference.stage(_rotated(config, x.float())) for x in (key, value))
    expected = _expected_pages(config, layout, key, value)
    for position, what in (
        (0, "prefill"),
        (layout.key_group - 1, "prefill"),
        (prefilled - 1, "chunk"),
        *((position, "decode") for position in range(prefilled, count)),
    ):
        want = _expected(config, layout, expected, query, key, value, position)
        error = error_ratio(got[position], want)
        if not error < TOLERANCE:
            raise _refusal(
                f"{what} of token {position}: RMS error ratio {error:.3g} (allowed {TOLERANCE:g})",
                heads, query_heads, dtype, layout,
            )  # fmt: skip


def check_closing(
    config: KiviConfig,
    layout: CacheLayout,
    heads: int,
    query_heads: int,
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool,
) -> None:
    """Close one group of many rows in a step, another way through the kernel, and of one row: equal bytes.

    Args:
        compiled: decode.cu serves, which may close groups too.

    Raises:
        CanaryError: they differ.
    """
    rows = rows_that_close_whole_heads(layout, heads, device)
    if rows == 0:
        return
    generator, d = torch.Generator().manual_seed(1), layout.head_size

    def random(count: int) -> torch.Tensor:
        x = torch.randn(1, count, d, generator=generator, dtype=torch.float32, device="cpu")
        return x.to(device, dtype)

    query, key, value = random(query_heads), random(heads), random(heads)
    ways = [(1, False), (rows, False)]
    if compiled and closes(layout):
        ways.append((rows, True))
    pages = torch.zeros(len(ways), 1 + rows, heads, layout.record_bytes, dtype=torch.uint8, device=device)
    rings = empty_rings(config, rows, heads, d, 0, device)
    staged = torch.randint(100, 130, rings[0][:1].shape, generator=generator, dtype=torch.uint8, device="cpu")
    rings[0].copy_(staged)
    for written, (count, deferred) in zip(pages, ways, strict=True):
        index = torch.arange(count + 1, dtype=torch.int32, device=device)
        blocks, zeros = 1 + index[:count], torch.zeros_like(index[:count])
        ends = zeros + layout.key_group
        step = Batch(index, ends, blocks[:, None].contiguous(), index[:count].contiguous(), zeros)
        rotated = torch.empty(count, query_heads, d, dtype=torch.float32, device=device)
        slots = blocks.long() * layout.block_size + layout.key_group - 1
        fresh = (x.expand(count, -1, -1) for x in (query, key, value))
        plan, windows = None, windows_of(config)
        if deferred:
            plan = new_plan(layout, count, heads, device)
            plan_few(layout, windows, plan, step, slots, heads)
        append_tokens(layout, written, step, slots, *fresh, rotated, *rings, config.clipping, config.rotation, plan)
        if plan is not None:
            scratch, out = new_scratch(layout, count, count, heads, query_heads, device), torch.empty_like(rotated)
            attend_few(
                layout, windows, out, rotated, written, step, *rings, 1.0, scratch, 1, 1, dtype, config.rotation, plan
            )  # fmt: skip
        found = written[1 : 1 + count]
        wrong = int((found != pages[0, 1]).sum())
        if wrong:
            raise _refusal(
                f"closing a key group of {rows} rows at once{' beside decode' if deferred else ''}: {wrong} bytes of "
                f"{found.numel()} are not those of one row alone,",
                heads, query_heads, dtype, layout,
            )  # fmt: skip


def _refusal(what: str, heads: int, query_heads: int, dtype: torch.dtype, layout: CacheLayout) -> CanaryError:
    return CanaryError(
        f"KIVI refuses: the start-up canary failed in {what} with {heads} KV heads, {query_heads} query heads, "
        f"{dtype}, {layout}. The kernels of this environment are wrong: re-install with kivi install --force"
    )


def _rotated(config: KiviConfig, x: torch.Tensor) -> torch.Tensor:
    return reference.rotate(x) if config.rotation else x


def _expected_pages(config: KiviConfig, layout: CacheLayout, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    pages = torch.zeros(3, key.shape[1], layout.record_bytes, dtype=torch.uint8, device="cpu")
    groups = torch.arange(key.shape[0] // layout.key_group, device="cpu")
    keys = key[: groups.numel() * layout.key_group].unflatten(0, (-1, layout.key_group))
    blocks = 1 + groups // layout.key_groups
    reference.store_keys(layout, pages, blocks, groups % layout.key_groups, keys, config.clipping)
    slots = torch.arange(key.shape[0], device="cpu") + layout.block_size
    reference.store_values(layout, pages, slots, value, config.clipping)
    return pages


def _expected(
    config: KiviConfig,
    layout: CacheLayout,
    pages: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position: int,
) -> torch.Tensor:
    closed = reference.closed_keys(position, config.key_group, config.key_window)
    rough = reference.rough_values(position, config.value_residual, config.value_window)
    got = reference.attend(
        layout,
        pages,
        torch.tensor([1, 2], device="cpu"),
        _rotated(config, query[position].float()),
        key[closed : position + 1].transpose(0, 1),
        value[rough : position + 1].transpose(0, 1),
        position + 1,
        layout.head_size**-0.5,
    )
    return _rotated(config, got)
