"""Tokens held and bytes per token, by vLLM's own count."""

import json
from typing import Any

REPORT_MARK = "KIVI_REPORT "


class CacheFacts:
    """Mixed into vLLM's worker through ``worker_extension_cls``: what its KV cache really is.

    The engine keeps the layout of the cache in another process; this asks it there instead of computing it here.
    """

    def bench_cache_facts(self) -> dict[str, Any]:
        """Layers with the page bytes of their spec, number of blocks, and bytes of the cache tensors of this rank."""
        config = self.model_runner.kv_cache_config  # type: ignore[attr-defined]
        layers = []
        for group in config.kv_cache_groups:
            group_spec = group.kv_cache_spec
            per_layer = getattr(group_spec, "kv_cache_specs", None)
            for name in group.layer_names:
                spec = per_layer[name] if per_layer else group_spec
                layers.append(
                    {
                        "layer": name,
                        "spec": type(spec).__name__,
                        "block_size": int(spec.block_size),
                        "page_bytes": int(spec.page_size_bytes),
                    }
                )
        sizes = [int(tensor.size) for tensor in config.kv_cache_tensors]
        shared = any(hasattr(tensor, "layers") for tensor in config.kv_cache_tensors)  # one allocation, vLLM 0.30 on
        return {
            "num_blocks": int(config.num_blocks),
            "groups": len(config.kv_cache_groups),
            "cache_bytes": max(sizes) if shared else sum(sizes),
            "layers": layers,
        }


def bytes_per_token(layers: list[dict[str, Any]]) -> float:
    """Bytes of cache that one token takes, over all layers but those with a state of fixed size (Mamba)."""
    return float(sum(layer["page_bytes"] / layer["block_size"] for layer in layers if "Mamba" not in layer["spec"]))


def reports(log: str) -> list[dict[str, Any]]:
    """Every KIVI_REPORT in a log, one per worker; the last one wins where a rank reported twice."""
    found: dict[int, dict[str, Any]] = {}
    for line in log.splitlines():
        _, mark, tail = line.partition(REPORT_MARK)
        if not mark:
            continue
        try:
            report, _ = json.JSONDecoder().raw_decode(tail)
        except (ValueError, RecursionError):
            continue  # a line cut off by another process; the missing report is an error of its own
        rank = report.get("rank", 0) if isinstance(report, dict) else None
        if isinstance(rank, int):
            found[rank] = report
    return [found[rank] for rank in sorted(found)]


def capacity(
    tokens: int, block_size: int, context: int, facts: dict[str, Any], report: dict[str, Any] | None
) -> dict[str, Any]:
    """The capacity suite's result.

    Args:
        tokens: what the whole engine holds, as vLLM counts it.
        block_size: tokens of a block; a sequence takes whole blocks.
        context: sequence length, in tokens, at which `concurrency` is counted.
        facts: of rank 0, from :class:`CacheFacts`.
        report: KIVI's own report of rank 0, or None for vLLM's own caches.
    """
    staging = int(report["staging_bytes"]) if report else 0
    whole_blocks = -(-context // block_size) * block_size
    return {
        "tokens": tokens,
        "block_size": block_size,
        "num_blocks": facts["num_blocks"],
        "bytes_per_token": bytes_per_token(facts["layers"]),
        "cache_bytes": facts["cache_bytes"],
        "staging_bytes": staging,
        "staging_slots": int(report["staging_slots"]) if report else 0,
        "total_bytes": facts["cache_bytes"] + staging,
        "context": context,
        "concurrency": tokens / whole_blocks,
        "specs": sorted({layer["spec"] for layer in facts["layers"]}),
    }
