"""The KV cache spec of a KIVI layer: full attention whose page is our packed record, so vLLM's block count is true."""

from __future__ import annotations

from dataclasses import dataclass, replace

from typing_extensions import Self
from vllm.v1.kv_cache_interface import FullAttentionSpec

from vllm_kivi.compat.specs import PackedPage, managed_as_full_attention


@managed_as_full_attention
@dataclass(frozen=True, kw_only=True)
class KiviFullAttentionSpec(PackedPage, FullAttentionSpec):
    """Full attention over packed pages.

    Args:
        record_bytes: bytes of one KV head in a page of ``block_size`` tokens (:class:`vllm_kivi.layout.CacheLayout`).
    """

    record_bytes: int = 0

    @classmethod
    def merge(cls, specs: list[Self]) -> Self:
        # The base class rebuilds the spec from the fields it knows and would drop ours. vLLM merges to find out whether
        # layers are alike, and takes an AssertionError for no.
        merged = super().merge(specs)
        if any(spec.record_bytes != specs[0].record_bytes for spec in specs):
            raise AssertionError("layers of one KV cache group must share one KIVI record size")
        return replace(merged, record_bytes=specs[0].record_bytes)
