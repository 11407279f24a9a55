"""Bytes that a step must read from its cache at least once, by format; queries and outputs are not counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kivi_bench.kernels.shapes import HEAD_SIZE, KV_HEADS, Shape

if TYPE_CHECKING:
    from vllm_kivi.config import KiviConfig

KIVI_BLOCK = 128
"""Tokens of a page."""


def flat(shape: Shape, bytes_per_token: float) -> int:
    """For a format in which every token takes as much: `bytes_per_token` of one KV head, keys and values together."""
    return round(shape.tokens * KV_HEADS * bytes_per_token)


def kivi(shape: Shape, config: KiviConfig) -> int:
    """Records of what the query reads quantized, and the rings' eight-bit codes of the rest.

    The query is the last token. Keys of its open group and window, and values of its open run and window, are read from
    rings; so the share of the rings is large in short contexts.
    """
    from vllm_kivi.layout import staged_bytes
    from vllm_kivi.reference import closed_keys, rough_values

    layout = config.layout(HEAD_SIZE, KIVI_BLOCK)
    position = shape.context - 1
    keys = closed_keys(position, config.key_group, config.key_window)
    values = rough_values(position, config.value_residual, config.value_window)
    pair = 3  # bytes of a zero and its scale
    key_bytes = layout.key_code_bytes + pair * HEAD_SIZE / config.key_group
    value_bytes = layout.value_code_rows + pair * layout.channel_groups
    ring_bytes = (2 * shape.context - keys - values) * staged_bytes(HEAD_SIZE)
    return round(shape.batch * KV_HEADS * (keys * key_bytes + values * value_bytes + ring_bytes))
