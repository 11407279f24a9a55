"""vllm-kivi: a KIVI KV cache (4 and 2 bits, keys per channel, values per token) for vLLM.

vLLM calls :func:`register` in every process, through the entry point group ``vllm.general_plugins``. The cache is asked
for with vLLM's own ``--kv-cache-dtype kivi_k4v4`` (or ``kivi_k4v2``, ``kivi_k2v2``); without it nothing changes.
"""

from __future__ import annotations

from typing import Any

from vllm_kivi.version import __version__

__all__ = ["__version__", "register", "status"]


def register() -> None:
    """Entry point: teach this process's vLLM the KIVI cache. Idempotent; touches no device."""
    from vllm_kivi.compat import install

    install()


def status() -> dict[str, Any]:
    """Whether this process's vLLM knows KIVI: registered, version, vllm, presets."""
    import vllm

    from vllm_kivi.compat import is_installed
    from vllm_kivi.config import PRESETS

    return {"registered": is_installed(), "version": __version__, "vllm": vllm.__version__, "presets": list(PRESETS)}
