"""Tells a cache that this installation cannot run from one that broke."""

import json
import re
import sys
from pathlib import Path
from typing import get_args

# What vLLM raises when the platform, the backend or the model lacks a cache: it did not break, it is not there.
_REFUSED = re.compile(r"(?P<why>KIVI refuses: .+?)(?: \[type=\w+, input_value=.*)?$")
_UNSUPPORTED = (
    re.compile(r"NotImplementedError: (?P<why>.+)"),
    re.compile(r"(?P<why>No valid attention backend found.+)"),
    re.compile(
        r"^(?P<why>.*(?:kv_cache_dtype|KV cache dtype|kv cache dtype).* (?:is )?not supported.*)", re.IGNORECASE
    ),
)
_RAISED = re.compile(r"\b(?P<why>(?:[A-Za-z_]+\.)*[A-Za-z_]*(?:Error|Exception|Interrupt)(?:: .+|$))")

# Characters. The patterns take time by the square of a line, and some logs have lines of megabytes.
_LONGEST_LINE = 4000


def unknown_dtype(cache_dtype: str) -> str | None:
    """Why the installed vLLM has no such cache, or None; asks its list, to which the plugin adds its own names."""
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm.config import cache

    names = get_args(cache.CacheDType)
    if cache_dtype in names:
        return None
    if cache_dtype.startswith("kivi_"):
        return "the KIVI plugin is not installed or did not load in this environment"
    return f"vLLM has no KV cache {cache_dtype!r}; it has {', '.join(names)}"


def classify(log: str) -> tuple[str, str]:
    """(status, reason) of an engine that did not start, from its log: 'unsupported' or 'failed'.

    The first exception in the log is the cause; the later ones are its echoes in the processes above.
    """
    lines = [line[:_LONGEST_LINE] for line in log.splitlines()]
    # Pydantic says that there is an error before it says which one.
    if refused := next((match for line in lines if (match := _REFUSED.search(line))), None):
        return "unsupported", refused["why"].strip()
    for line in lines:
        for pattern in _UNSUPPORTED:
            if match := pattern.search(line):
                return "unsupported", match["why"].strip()
        if match := _RAISED.search(line):
            return "failed", match["why"].strip()
    return "failed", "the engine ended without an error message"


if __name__ == "__main__":
    # Of a server, whose log kivi has and no worker: `python refusal.py LOG`.
    status, reason = classify(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace"))
    print(json.dumps({"status": status, "reason": reason}))
