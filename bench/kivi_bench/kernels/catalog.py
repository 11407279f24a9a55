"""What can be measured, by the name that people type."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kivi_bench.kernels.subject import Subject

BASELINE = "fa3-bf16"
"""The others' times are given relative to this one's."""

TITLES = {
    "k4v4": "KIVI k4v4, decode.cu",
    BASELINE: "FlashAttention 3, bfloat16",
    "fa3-fp8": "FlashAttention 3, fp8 (e4m3)",
    "k4v2": "KIVI k4v2, decode.cu",
    "k2v2": "KIVI k2v2, decode.cu",
    "int4-per-token-head": "vLLM int4_per_token_head, Triton",
    "turboquant-4bit": "vLLM turboquant_4bit_nc, Triton",
    "turboquant-k8v4": "vLLM turboquant_k8v4, Triton",
    "k4v4-triton": "KIVI k4v4, Triton",
    "k4v2-triton": "KIVI k4v2, Triton",
    "k2v2-triton": "KIVI k2v2, Triton",
}
"""In the order in which they are measured."""

NAMES = tuple(TITLES)

DEFAULT = tuple(name for name in NAMES if name not in ("k4v2-triton", "k2v2-triton"))


def is_kivi(name: str) -> bool:
    """Whether it needs the plugin."""
    return name[0] == "k"


def open_subject(name: str, sources: bool) -> Subject:
    """The implementation, with its packages imported.

    Args:
        sources: measure the repository's kernels, whatever is installed.

    Raises:
        UnsupportedError: it is not there.
    """
    import torch

    from kivi_bench.kernels.subject import UnsupportedError

    if is_kivi(name):
        from kivi_bench.kernels.kivi import Kivi
        from kivi_bench.kernels.plugin import PluginError, use_plugin

        try:
            folder = use_plugin(sources)
        except PluginError as error:
            raise UnsupportedError(str(error)) from error
        preset, _, kernel = name.partition("-")
        return Kivi(preset, kernel != "triton", folder)
    if name.startswith("fa3-"):
        from kivi_bench.kernels.flash import Flash

        return Flash(torch.bfloat16 if name == BASELINE else torch.float8_e4m3fn)
    from kivi_bench.kernels.vllm_backend import VllmBackend

    dtypes = {"int4-per-token-head": "int4_per_token_head", "turboquant-4bit": "turboquant_4bit_nc"}
    return VllmBackend(dtypes.get(name, name.replace("-", "_")))
