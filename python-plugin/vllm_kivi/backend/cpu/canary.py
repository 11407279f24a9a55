"""Start-up canary: every worker stores and reads one known sequence and compares it with the reference.

It also compiles the kernels for the types that serving will call them with, so that no request waits for a compiler.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from vllm_kivi import reference
from vllm_kivi.backend.canary import CanaryError, error_ratio
from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, CpuKernels, cpu_kernels
from vllm_kivi.cache.staging import Ring
from vllm_kivi.layout import CacheLayout

TOLERANCE = 1e-4
"""RMS error ratio allowed between kernels and reference, both in float32; 1e-6 is what it is."""


@functools.cache
def checked_kernels(layout: CacheLayout, queries_per_kv: int, clipping: bool, ring_dtype: torch.dtype) -> CpuKernels:
    """The compiled kernels, once they have agreed with the reference in this process.

    Raises:
        CanaryError: which step, the layout, and by how much it is off.
    """
    kernels = cpu_kernels(layout, queries_per_kv, clipping)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:  # vLLM changes the default dtype while it loads a model
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

    tokens, group, d = layout.block_size + 3, layout.key_group, layout.head_size
    key, value = random(tokens, 1, d), random(tokens, 1, d)
    key[:, :, d // 2] += 8  # an outlier channel, as keys have
    pages = torch.zeros(3, 1, layout.record_bytes, dtype=torch.uint8)
    expected = pages.clone()
    in_block = torch.arange(layout.key_groups)
    blocks = torch.ones_like(in_block)
    keys = key[: layout.block_size].unflatten(0, (layout.key_groups, group)).contiguous()
    slots = layout.block_size + torch.arange(tokens)
    kernels.store_keys(pages.numpy(), blocks.numpy(), in_block.numpy(), keys.numpy())
    kernels.store_values(pages.numpy(), slots.numpy(), value.numpy())
    reference.store_keys(layout, expected, blocks, in_block, keys, clipping)
    reference.store_values(layout, expected, slots, value, clipping)

    table = torch.tensor([[1, 2]], dtype=torch.int32)
    want_key, want_value = reference.load_blocks(layout, expected, table[0])
    want_key, want_value = want_key[:, : layout.block_size].contiguous(), want_value[:, :tokens].contiguous()
    got_key, got_value = torch.empty_like(want_key), torch.empty_like(want_value)
    kernels.load_keys(pages.numpy(), table[0].numpy(), 0, layout.key_groups, got_key.numpy())
    kernels.load_values(pages.numpy(), table[0].numpy(), 0, tokens, got_value.numpy())
    _compare("storing and loading keys", layout, got_key, want_key)
    _compare("storing and loading values", layout, got_value, want_value)

    exact = torch.arange(layout.block_size, tokens)  # read from the rings
    ring, owner = Ring(0, 1, group, 8, d, ring_dtype), torch.zeros_like(exact)
    ring.write_keys(owner, exact, key[exact])
    ring.write_values(owner, exact, value[exact])
    query = random(1, queries_per_kv, d)
    out, scale, splits = torch.empty_like(query), d**-0.5, -(-tokens // SPLIT_TOKENS)
    kernels.decode(
        out.numpy(),
        query.numpy(),
        pages.numpy(),
        table.numpy(),
        np.array([layout.block_size]),
        np.array([layout.block_size]),
        ring.key_array(),
        ring.value_array(),
        np.array([0]),
        np.array([tokens]),
        np.float32(scale),
        np.empty((1, splits, queries_per_kv, d), np.float32),
        np.empty((1, splits, queries_per_kv, 2), np.float32),
    )
    want = reference.attend(
        layout,
        expected,
        table[0],
        query[0],
        ring.read_keys(owner, exact).transpose(0, 1),
        ring.read_values(owner, exact).transpose(0, 1),
        tokens,
        scale,
    )
    _compare("decoding", layout, out[0], want)
    return kernels


def _compare(step: str, layout: CacheLayout, got: torch.Tensor, want: torch.Tensor) -> None:
    error = error_ratio(got, want)
    if not error < TOLERANCE:
        raise CanaryError(
            f"KIVI refuses: the start-up canary failed in {step}: RMS error ratio {error:.3g} (allowed {TOLERANCE:g}) "
            f"with {layout}. The compiled kernels of this environment are wrong: re-install with kivi install --force"
        )
