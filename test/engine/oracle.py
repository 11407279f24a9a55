"""A separate, straightforward model of KIVI: the full sequence at once, dense, sharing no code with the plugin.

Every key and value is quantized and read back; then each query picks, for every earlier token, the quantized or the
exact one by position alone. Query i reads the key of token j quantized when i is past j's key group by at least
``key_window`` tokens, and its value when i is past j's run of ``value_residual`` tokens by at least ``value_window``.
Nothing is packed, cached, chunked or batched.

Source: Liu et al., "KIVI", ICML 2024; the rounding of scale and zero is the one vllm_kivi.layout documents.
"""

from __future__ import annotations

import math
from collections.abc import Container
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def keep_mantissa(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to ``bits`` mantissa bits after the leading one, halves away from zero."""
    fraction, exponent = torch.frexp(x.double())
    steps = 2.0 ** (bits + 1)
    return torch.ldexp((fraction.abs() * steps + 0.5).floor() / steps * fraction.sign(), exponent).float()


def read_back(x: torch.Tensor, bits: int, dim: int, clipping: bool) -> torch.Tensor:
    """x quantized along ``dim`` (which shares scale and zero) and dequantized."""
    low, high, top = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True), 2**bits - 1
    part = 7 / 8 if clipping and bits == 2 else 1.0
    zero = keep_mantissa(low + (high - low) * (1 - part) / 2, 8)
    zero = torch.where(zero.abs() < 2.0**-14, 0.0, zero)
    scale = keep_mantissa(((high - low) * part / top).clamp_min(2.0**-14), 5)
    return ((x - zero) / scale + 0.5).floor().clamp(0, top) * scale + zero


def walsh(size: int) -> torch.Tensor:
    """Orthonormal Hadamard matrix of a power of two, by the parity of the common bits of row and column."""
    index = torch.arange(size)
    common = index[:, None] & index[None]
    parity = sum((common >> bit) & 1 for bit in range(size.bit_length())) % 2
    return (1 - 2 * parity).float() / math.sqrt(size)


def through_eight_bits(x: torch.Tensor) -> torch.Tensor:
    """Each eight channels as whole multiples, at most 127, of the power of two that puts their largest above 63."""
    blocks = x.double().unflatten(-1, (-1, 8))
    _, exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True))
    unit = torch.ldexp(torch.ones_like(blocks), exponent - 7)
    return ((blocks / unit + 0.5).floor().clamp(-127, 127) * unit).flatten(-2).float()


class Oracle:
    """Logits of a checkpoint under a KIVI cache; layers with a sliding window have an exact one.

    Args:
        settings: key_bits, value_bits, key_group, value_group, key_window, value_residual, value_window, rotation,
            clipping; restored: leading tokens that a prefix hit left only quantized; eight_bits: whether what is not
            quantized passes through eight bits, as on a GPU. None for an exact cache.
        dtype: the model's; attention itself is computed in float32.
        exact_layers: that have an exact cache too.
        device: to compute on.
    """

    def __init__(
        self,
        checkpoint: Path,
        settings: dict | None,
        dtype: torch.dtype = torch.float32,
        exact_layers: Container[int] = (),
        device: str = "cpu",
    ) -> None:
        self.settings, self.dtype, self.exact_layers, self.device = settings, dtype, exact_layers, torch.device(device)
        ALL_ATTENTION_FUNCTIONS["kivi_oracle"] = self._attention
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="eager")
        self.model = model.to(self.device).eval()

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Float32 [len(tokens), vocabulary] on the CPU: row i follows token i."""
        ALL_ATTENTION_FUNCTIONS["kivi_oracle"] = self._attention
        self.model.config._attn_implementation = "kivi_oracle"
        with torch.no_grad(), self.device:
            return self.model(torch.tensor([tokens]), use_cache=False).logits[0].float().cpu()

    def _attention(self, module, q, k, v, mask, scaling=None, **_):  # type: ignore[no-untyped-def]
        q, k, v = q[0].float(), k[0].float(), v[0].float()  # [heads, tokens, D]
        tokens, ratio = q.shape[1], q.shape[0] // k.shape[0]
        i, j = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
        exact_k, exact_v = k, v
        rough_k = rough_v = torch.zeros(tokens, tokens, dtype=torch.bool)
        window = getattr(module, "sliding_window", None)
        if self.settings and window is None and module.layer_idx not in self.exact_layers:
            s = self.settings
            exact_k, exact_v, k, v = self._stored(k, v)
            rough_k = (j // s["key_group"] + 1) * s["key_group"] + s["key_window"] <= i
            restored = (j < s.get("restored", 0)) & (i >= s.get("restored", 0))
            rough_k |= restored
            rough_v = (j // s["value_residual"] + 1) * s["value_residual"] + s["value_window"] <= i
            rough_v |= restored
        k, v, exact_k, exact_v = (x.repeat_interleave(ratio, 0) for x in (k, v, exact_k, exact_v))
        scores = torch.where(rough_k, q @ k.transpose(1, 2), q @ exact_k.transpose(1, 2)) * scaling
        unseen = (j > i) | (i - j >= (window or tokens))
        p = scores.masked_fill(unseen, -math.inf).softmax(-1)
        out = (p * rough_v) @ v + (p * ~rough_v) @ exact_v
        return out.transpose(0, 1)[None].to(self.dtype), None

    def _stored(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Keys and values as read unquantized, and as read quantized."""
        s = self.settings
        assert s is not None
        heads, tokens, d = k.shape
        turn = walsh(d) if s["rotation"] else torch.eye(d)
        exact_k, exact_v = k, v
        k, v = k @ turn, v @ turn
        if s.get("eight_bits"):
            k, v = through_eight_bits(k), through_eight_bits(v)
            exact_k, exact_v = k @ turn.T, v @ turn.T
        k, v = k.to(self.dtype).float(), v.to(self.dtype).float()
        group, whole = s["key_group"], tokens // s["key_group"] * s["key_group"]
        stored_k = k.clone()
        stored_k[:, :whole] = read_back(
            k[:, :whole].reshape(heads, -1, group, d), s["key_bits"], 2, s["clipping"]
        ).reshape(heads, whole, d)
        stored_v = read_back(v.reshape(heads, tokens, -1, s["value_group"]), s["value_bits"], 3, s["clipping"]).reshape(
            heads, tokens, d
        )
        return exact_k, exact_v, stored_k @ turn.T, stored_v @ turn.T
