"""The bytes of a KIVI page: the one place that the cache spec, the kernels and the reference agree on.

A page holds one block of ``block_size`` tokens; it is one record per KV head. A record is self-contained: codes, scales
and zeros of all its key groups and values lie inside, so that a block can be shared, copied or moved like any other.

Record, in this order (``T`` = block_size, ``D`` = head_size, ``Pk`` = 8 / key_bits codes a byte, ``Pv`` likewise)::

    key codes     uint8  [T, D / Pk]        byte j of a token packs channels j, j + D/Pk, j + 2 D/Pk, ...
    value codes   uint8  [D / Pv, T]        row j packs channels j, j + D/Pv, ...
    key zeros     uint16 [T / key_group, D]
    value zeros   uint16 [D / value_group, T]
    key scales    uint8  [T / key_group, D]
    value scales  uint8  [D / value_group, T]

So what attention sums over lies together: the channels of a key, the tokens of a value channel. That is the order in
which tensor cores take their second operand, without a shuffle, and a token's value is one column, written at once.

A (zero, scale) pair takes three bytes: the zero is 1 sign, 5 exponent and 8 mantissa bits (a float16 without its two
lowest mantissa bits), the scale 5 exponent and 5 mantissa bits; the scale's upper eight bits are its byte, its lower
two lie in the two lowest bits of the zero's uint16. Both decode with integer operations alone.

Tokens that are not quantized yet (open groups, windows) lie in rings outside the pages. On a GPU a ring's token is
``D`` eight-bit codes followed by one exponent byte for each of its :data:`STAGING_BLOCK` channels, in which a code
counts: 2^(exponent - 127), so that every value is a float16 and a bfloat16 too. That is MXINT8 with a smaller block
(Open Compute Project, "Microscaling Formats (MX)", v1.0); its error is about twice that of rounding to bfloat16.

Scheme of keys per channel and values per token: Liu et al., "KIVI", ICML 2024, arXiv:2402.02750.
"""

from __future__ import annotations

from dataclasses import dataclass

RECORD_ALIGNMENT = 16
"""Bytes. Kernels load records in 16-byte vectors."""

SUPPORTED_BITS = (2, 4)

STAGING_BLOCK = 8
"""Channels of a staged token that share an exponent."""

STAGING_TILE = 16
"""Tokens. A ring is whole tiles, which decode.cu reads without looking for the ring's end inside one."""


def staged_bytes(head_size: int) -> int:
    """Bytes of one head's key or value in a ring on a GPU."""
    return head_size + head_size // STAGING_BLOCK


def whole_tiles(tokens: int) -> int:
    """Tokens of a ring that has room for so many."""
    return -(-tokens // STAGING_TILE) * STAGING_TILE


class LayoutError(ValueError):
    """Sizes that do not fit together; the message names the size, what was found and what fits."""


@dataclass(frozen=True)
class CacheLayout:
    """Offsets and sizes, in bytes, of one KV head's record in a page.

    Args:
        head_size: channels of one head, ``D``.
        block_size: tokens of one block, ``T``.
        key_bits, value_bits: 2 or 4.
        key_group: tokens that share one key scale per channel; divides ``block_size``.
        value_group: channels that share one value scale per token; divides ``head_size``.

    Raises:
        LayoutError: sizes that do not divide as the record needs.
    """

    head_size: int
    block_size: int
    key_bits: int
    value_bits: int
    key_group: int
    value_group: int

    def __post_init__(self) -> None:
        for name in ("key_bits", "value_bits"):
            if getattr(self, name) not in SUPPORTED_BITS:
                raise LayoutError(f"{name} is {getattr(self, name)}; supported: {SUPPORTED_BITS}")
        if self.head_size % 8 or self.head_size <= 0:
            raise LayoutError(f"head_size is {self.head_size}; a positive multiple of 8 is needed")
        if self.key_group % 8 or self.key_group <= 0:
            raise LayoutError(f"key_group is {self.key_group}; a positive multiple of 8 is needed")
        if self.block_size <= 0 or self.block_size % self.key_group:
            raise LayoutError(
                f"key_group {self.key_group} does not divide the block size {self.block_size}: "
                f"use a block size that is a multiple of {self.key_group}"
            )
        if self.value_group <= 0 or self.head_size % self.value_group:
            fits = [g for g in range(8, self.head_size + 1, 8) if self.head_size % g == 0]
            raise LayoutError(
                f"value_group {self.value_group} does not divide the head size {self.head_size}: use one of {fits}"
            )

    @property
    def spec(self) -> str:
        """The sizes in one word, as compiled kernels are keyed by."""
        sizes = self.head_size, self.block_size, self.key_bits, self.value_bits, self.key_group, self.value_group
        return ":".join(map(str, sizes))

    @property
    def key_groups(self) -> int:
        """Key groups in a block."""
        return self.block_size // self.key_group

    @property
    def channel_groups(self) -> int:
        """Value scales of one token and head."""
        return self.head_size // self.value_group

    @property
    def key_code_bytes(self) -> int:
        """Bytes of packed key codes of one token, ``D * key_bits / 8``."""
        return self.head_size * self.key_bits // 8

    @property
    def value_code_rows(self) -> int:
        """Rows of packed value codes, ``D * value_bits / 8``."""
        return self.head_size * self.value_bits // 8

    @property
    def key_codes_offset(self) -> int:
        return 0

    @property
    def value_codes_offset(self) -> int:
        return self.key_code_bytes * self.block_size

    @property
    def key_zeros_offset(self) -> int:
        return self.value_codes_offset + self.value_code_rows * self.block_size

    @property
    def value_zeros_offset(self) -> int:
        return self.key_zeros_offset + 2 * self.key_groups * self.head_size

    @property
    def key_scales_offset(self) -> int:
        return self.value_zeros_offset + 2 * self.block_size * self.channel_groups

    @property
    def value_scales_offset(self) -> int:
        return self.key_scales_offset + self.key_groups * self.head_size

    @property
    def record_bytes(self) -> int:
        """Bytes of one KV head in a page."""
        end = self.value_scales_offset + self.block_size * self.channel_groups
        return -(-end // RECORD_ALIGNMENT) * RECORD_ALIGNMENT

    @property
    def bytes_per_token(self) -> float:
        """Bytes of one token and KV head."""
        return self.record_bytes / self.block_size

    def page_bytes(self, num_kv_heads: int) -> int:
        """Bytes of one block of one layer."""
        return num_kv_heads * self.record_bytes
