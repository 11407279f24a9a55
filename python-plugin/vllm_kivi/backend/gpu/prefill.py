"""Prefill by FlashAttention over a slab: a step's pieces put on the GPU once, and each layer's attention over them.

FlashAttention 3 (Shah et al., arXiv:2407.08608; Hopper) or 2 (Dao, arXiv:2307.08691), whichever vLLM itself takes.
Without one, and for formats in which keys and values close at different places, attend.py's kernel reads the pages
themselves, more slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.attention.backends import fa_utils
from vllm.v1.attention.ops.merge_attn_states import merge_attn_states

from vllm_kivi.backend.gpu.pieces import Piece, Reach, least_units, reach_of
from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.many import Pair
from vllm_kivi.kernels.repeat import Repeat
from vllm_kivi.kernels.rotation import rotation_matrix
from vllm_kivi.kernels.slab import fill_slab
from vllm_kivi.layout import CacheLayout

SLAB_BYTES = 192 << 20
"""Of keys and values: a bound whatever the context length; 49,152 tokens of one layer of Llama-8B."""


def flash_version(head_size: int) -> int | None:
    """The FlashAttention that serves: vLLM's choice for the GPU and its ``attention_config``; None without one.

    In place of 4, whose paged cache has blocks of 128 tokens alone, 2: every GPU from sm_80 has it.
    """
    version = fa_utils.get_flash_attn_version(head_size=head_size) if head_size <= 256 else None
    return 2 if version == 4 else version


def flash_reach(config: KiviConfig, head_size: int) -> Reach | None:
    """What queries read exactly, or None where FlashAttention does not serve this format and machine."""
    reach = reach_of(config)
    return None if flash_version(head_size) is None else reach


def slab_units(reach: Reach, heads: int, head_size: int, max_seqs: int, max_tokens: int, max_model_len: int) -> int:
    """Units of a slab: no more than all rows could use, no fewer than one row needs."""
    unit_bytes = 2 * 2 * reach.group * heads * head_size
    useful = max_seqs * (-(-max_model_len // reach.group) + 2 + reach.window // reach.group)
    return max(least_units(reach, max_tokens), min(SLAB_BYTES // unit_bytes, useful))


@dataclass(frozen=True)
class Slab:
    """Scratch that all layers of a shape share.

    Attributes:
        key, value: [units, G, H, D] in the model's dtype; never NaN, even where nothing was written.
        rotation: of :func:`vllm_kivi.kernels.rotation.rotation_matrix`; None if the format does not rotate.
        version: of :func:`flash_version`.
    """

    key: torch.Tensor
    value: torch.Tensor
    rotation: torch.Tensor | None
    version: int

    def restore(self) -> None:
        """Put back what it must hold before its first use."""
        self.key.zero_()
        self.value.zero_()
        if self.rotation is not None:
            self.rotation.copy_(rotation_matrix(self.key.shape[-1], self.key.device))


def new_slab(
    config: KiviConfig,
    units: int,
    heads: int,
    head_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Slab:
    """A slab of ``units`` units."""
    shape = units, config.key_group, heads, head_size
    key, value = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
    version = flash_version(head_size)
    assert version is not None, "no slab is wanted without FlashAttention"
    return Slab(key, value, rotation_matrix(head_size, device) if config.rotation else None, version)


@dataclass(frozen=True)
class SentPiece:
    """A :class:`Piece` with its arrays on the GPU."""

    piece: Piece
    units: torch.Tensor
    starts: torch.Tensor
    keys: torch.Tensor
    table: torch.Tensor


def send_pieces(pieces: list[Piece], device: torch.device) -> list[SentPiece]:
    """All arrays in one copy, for which nothing waits."""
    arrays = [x for piece in pieces for x in (piece.units, piece.starts, piece.keys, piece.table)]
    flat = torch.from_numpy(np.concatenate([x.ravel() for x in arrays])).pin_memory().to(device, non_blocking=True)
    parts = iter(flat.split([x.size for x in arrays]))
    return [
        SentPiece(
            piece,
            next(parts).view(piece.units.shape),
            next(parts),
            next(parts),
            next(parts).view(piece.table.shape),
        )
        for piece in pieces
    ]


def attend_pieces(
    layout: CacheLayout,
    pieces: list[SentPiece],
    repeat: Repeat,
    slab: Slab,
    out: torch.Tensor,
    spare: torch.Tensor,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    rings: Pair,
    staged: Callable[[], Pair],
    scale: float,
) -> None:
    """Rows of many queries; arguments and result as :func:`vllm_kivi.kernels.many.attend_many`.

    Args:
        repeat: of the step, in the layer.
        staged: gives the step's keys and values.
        spare: [>= tokens, Hq, D], scratch for what continues another piece.
    """
    lse: torch.Tensor | None = None
    for number, sent in enumerate(pieces):
        piece = sent.piece

        def fill(units: torch.Tensor = sent.units) -> None:
            fill_slab(layout, (slab.key, slab.value), units, slab.rotation, pages, batch, rings, staged())

        repeat(number, fill)
        part = slice(piece.first, piece.last)
        if not piece.older:
            lse = _flash(sent, slab, query[part], out[part], scale)
            continue
        assert lse is not None
        other = spare[: piece.last - piece.first]
        other_lse, both = _flash(sent, slab, query[part], other, scale), torch.empty_like(lse)
        merge_attn_states(out[part], out[part], lse, other, other_lse, both)
        lse = both


def _flash(sent: SentPiece, slab: Slab, query: torch.Tensor, out: torch.Tensor, scale: float) -> torch.Tensor:
    """Log-sum-exp, float32 [Hq, queries]; the output goes to ``out``."""
    arguments: dict[str, Any] = {
        "max_seqlen_q": sent.piece.most_queries,
        "cu_seqlens_q": sent.starts,
        "max_seqlen_k": sent.piece.most_keys,
        "seqused_k": sent.keys,
        "block_table": sent.table,
        "softmax_scale": scale,
        "causal": not sent.piece.older,
        "return_softmax_lse": True,
        "out": out,
        "num_splits": 1,  # queries fill the GPU; splits would allocate
        "fa_version": slab.version,
    }
    attend: Any = fa_utils.flash_attn_varlen_func  # type: ignore[attr-defined]  # defined for the platform
    lse: torch.Tensor = attend(query, slab.key, slab.value, **arguments)[1]
    return lse
