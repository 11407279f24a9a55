"""Every place where KIVI meets vLLM's internals: what is touched, why, and how each goes away.

Ledger (read and run on vLLM 0.26.0):

================================  ======================================================  ==============================
symbol                            why                                                     goes away with
================================  ======================================================  ==============================
config.cache.CacheDType           ``kivi_*`` must pass the closed list of cache dtypes    register_kv_cache_dtype (0.33)
STR_DTYPE_TO_TORCH_DTYPE          a KIVI page is uint8                                    the same
Platform.check_and_update_config  settings are checked once, when the engine is set up    -
Platform.get_attn_backend_cls     a layer whose cache dtype is ours gets our backend      open backend choice
Attention.get_kv_cache_spec       such a layer reports our page bytes                     customize_spec (0.28)
GPUModelRunner (two methods)      whose row is whose, and who ended: owners of groups     CircularBufferSpec (0.30)
CPUWorker.determine_available_…   staging is paid from the cache's memory on CPU too      -
================================  ======================================================  ==============================

Each wrapper calls straight through when the engine does not ask for KIVI. ``GPUModelRunner`` is also the base of the
CPU runner. :func:`install` is idempotent and runs in every process, from ``vllm.general_plugins``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

from vllm_kivi.config import CACHE_DTYPES

_MARK = "__vllm_kivi__"


class IncompatibleError(RuntimeError):
    """This vLLM lacks a seam that KIVI needs; the message names it."""


def install() -> None:
    """Hook KIVI into this process's vLLM; safe to call again.

    Raises:
        IncompatibleError: a symbol of the ledger is missing.
    """
    from vllm.platforms import current_platform

    add_cache_dtypes()
    _wrap(type(current_platform), "check_and_update_config", _check_config)
    _wrap(type(current_platform), "get_attn_backend_cls", _choose_backend)
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    _wrap(Attention, "get_kv_cache_spec", _kv_cache_spec)
    _wrap(GPUModelRunner, "initialize_kv_cache", _initialize_kv_cache)
    _wrap(GPUModelRunner, "execute_model", _execute_model)
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        _wrap(CPUWorker, "determine_available_memory", _available_memory)


def is_installed() -> bool:
    """Whether this process's vLLM accepts our cache dtypes and has our hooks."""
    from vllm.config import cache
    from vllm.platforms import current_platform

    hook = getattr(type(current_platform).get_attn_backend_cls, "__func__", None)
    return set(CACHE_DTYPES) <= set(get_args(cache.CacheDType)) and hasattr(hook, _MARK)


def add_cache_dtypes() -> None:
    """Make vLLM's configuration and command line accept our cache dtype names (nonsense is still rejected)."""
    import torch
    from pydantic.dataclasses import rebuild_dataclass
    from vllm.config import cache
    from vllm.engine import arg_utils
    from vllm.utils import torch_utils
    from vllm.v1.attention import selector

    known = get_args(cache.CacheDType)
    if not known:
        raise IncompatibleError("KIVI: vllm.config.cache.CacheDType is not a Literal in this vLLM")
    if set(CACHE_DTYPES) <= set(known):
        return
    names = (*known, *CACHE_DTYPES)
    widened: Any = Literal[names]
    for module in (cache, selector, arg_utils):
        module.CacheDType = widened  # type: ignore[attr-defined]
    config = cache.CacheConfig
    config.__annotations__["cache_dtype"] = widened
    config.__dataclass_fields__["cache_dtype"].type = widened
    config.__pydantic_fields__["cache_dtype"].annotation = widened  # type: ignore[attr-defined]
    rebuild_dataclass(config, force=True)  # type: ignore[arg-type]
    torch_utils.STR_DTYPE_TO_TORCH_DTYPE.update(dict.fromkeys(CACHE_DTYPES, torch.uint8))


def _wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``wrapper(original, *args, **kwargs)``, once; class methods stay class methods."""
    try:
        original = getattr(owner, name)
    except AttributeError:
        raise IncompatibleError(f"KIVI: this vLLM has no {owner.__module__}.{owner.__qualname__}.{name}") from None
    bound = getattr(original, "__self__", None) is owner
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *(args[1:] if bound else args), **kwargs)

    setattr(call, _MARK, True)
    setattr(owner, name, classmethod(call) if bound else call)


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


def _kv_cache_spec(original: Callable[..., Any], layer: Any, vllm_config: Any) -> Any:
    from vllm_kivi.config import is_kivi_dtype

    if not is_kivi_dtype(layer.kv_cache_dtype):
        return original(layer, vllm_config)
    import torch

    from vllm_kivi.cache.spec import KiviFullAttentionSpec
    from vllm_kivi.settings import config_of

    block_size = vllm_config.cache_config.block_size
    return KiviFullAttentionSpec(
        block_size=block_size,
        num_kv_heads=layer.num_kv_heads,
        head_size=layer.head_size,
        dtype=torch.uint8,
        record_bytes=config_of(vllm_config).layout(layer.head_size, block_size).record_bytes,
    )


def _initialize_kv_cache(
    original: Callable[..., Any], runner: Any, kv_cache_config: Any, *args: Any, **kwargs: Any
) -> Any:
    from vllm_kivi.settings import is_asked_for

    if not is_asked_for(runner.vllm_config):
        return original(runner, kv_cache_config, *args, **kwargs)
    from vllm_kivi.cache.staging import SlotPool, building
    from vllm_kivi.report import log_report

    runner.kivi_slots = SlotPool(runner.scheduler_config.max_num_seqs)
    token = building.set(runner.kivi_slots)
    try:
        result = original(runner, kv_cache_config, *args, **kwargs)
    finally:
        building.reset(token)
    log_report(runner.vllm_config, kv_cache_config)
    return result


def _execute_model(original: Callable[..., Any], runner: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
    slots = getattr(runner, "kivi_slots", None)
    if slots is None:
        return original(runner, scheduler_output, *args, **kwargs)
    ended = {*scheduler_output.finished_req_ids, *(scheduler_output.preempted_req_ids or ())}
    with slots.step(ended, lambda: runner.input_batch.req_ids):
        return original(runner, scheduler_output, *args, **kwargs)


def _available_memory(original: Callable[..., Any], worker: Any) -> int:
    from vllm_kivi.report import staging_bytes
    from vllm_kivi.settings import is_asked_for

    available = int(original(worker))
    if not is_asked_for(worker.vllm_config):
        return available
    left = available - staging_bytes(worker.vllm_config)
    if left <= 0:
        raise ValueError(
            f"KIVI refuses: staging of {worker.vllm_config.scheduler_config.max_num_seqs} sequences needs "
            f"{available - left} bytes and the cache memory is {available} bytes: "
            "raise --kv-cache-memory-bytes or lower --max-num-seqs"
        )
    return left
