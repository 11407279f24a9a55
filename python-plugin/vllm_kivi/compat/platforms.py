"""Hooks on vLLM's platform class: the configuration is checked there, and a layer's backend chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_kivi.compat.wrap import wrap


def hook_platform(platform: type) -> None:
    """``platform``: the class of vLLM's current platform.

    Raises:
        IncompatibleError: it lacks a method.
    """
    wrap(platform, "check_and_update_config", _check_config)
    wrap(platform, "get_attn_backend_cls", _choose_backend)
    if hasattr(platform, "update_block_size_for_backend"):  # not in 0.16, where nothing aligns block sizes
        wrap(platform, "update_block_size_for_backend", _keep_block_size)
    if hasattr(platform, "register_triton_kernel_overrides"):  # 0.32
        wrap(platform, "register_triton_kernel_overrides", _register_kernels_once)


def _check_config(original: Callable[..., Any], vllm_config: Any) -> None:
    from vllm_kivi.gate import check_after, check_before

    check_before(vllm_config)
    original(vllm_config)
    check_after(vllm_config)


def _choose_backend(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from vllm_kivi.config import is_kivi_dtype

    selector_config = kwargs["attn_selector_config"] if "attn_selector_config" in kwargs else args[1]
    if not is_kivi_dtype(selector_config.kv_cache_dtype):
        return original(*args, **kwargs)
    from vllm.config import get_current_vllm_config

    from vllm_kivi.gate import backend_path

    return backend_path(get_current_vllm_config(), selector_config)


def _keep_block_size(original: Callable[..., Any], vllm_config: Any) -> None:
    from vllm_kivi.settings import is_asked_for

    if not is_asked_for(vllm_config):  # otherwise the gate has settled it
        original(vllm_config)


def _register_kernels_once(original: Callable[..., Any]) -> None:
    """vLLM looks through all imported modules for its kernels, and fails at an object of llvmlite, which our own
    kernels bring in: the second engine of a process would not start. What it would register is registered by then."""
    from vllm.triton_utils import dispatcher  # type: ignore[attr-defined]

    if not dispatcher._registry:
        original()


def pin_where_possible(platform: Any) -> None:
    """0.22 pins what LoRA and others copy to the device even on the CPU, which fails where torch was built for CUDA and
    finds no driver; 0.20 does not pin it, and from 0.24 on vLLM asks the platform, as is done here."""
    from vllm.utils import torch_utils

    if getattr(torch_utils, "PIN_MEMORY", False) and not platform.is_pin_memory_available():
        torch_utils.async_tensor_h2d.__defaults__ = (False,)  # of pin_memory; the function is imported by name already
