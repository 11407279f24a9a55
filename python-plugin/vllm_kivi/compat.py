"""Every place where KIVI meets vLLM's internals: what is touched, why, and how each goes away.

Ledger (read and run on vLLM 0.26.0):

================================  ======================================================  ==============================
symbol                            why                                                     goes away with
================================  ======================================================  ==============================
config.cache.CacheDType           ``kivi_*`` must pass the closed list of cache dtypes    register_kv_cache_dtype (0.33)
STR_DTYPE_TO_TORCH_DTYPE          a KIVI page is uint8                                    the same
Platform.check_and_update_config  settings are checked once, when the engine is set up    -
Platform.get_attn_backend_cls     a layer whose cache dtype is ours gets our backend      open backend choice
Platform.update_block_size_for_…  it would align block sizes to a page it cannot know       byte-wise planning (0.30)
Attention.get_kv_cache_spec       such a layer reports our page bytes                     customize_spec (0.28)
GPUModelRunner.get_kv_cache_spec  pages of the other layers fit ours (V1 and V2)          byte-wise planning (0.30)
GPUModelRunner (two methods)      who starts and who ended: owners of open groups         CircularBufferSpec (0.30)
  of both model runners, V1 and V2
DefaultModelState.prepare_attn    whose row is whose (V2; V1 keeps it on the runner)      req_idx in the metadata (0.30)
Worker.determine_available_…      staging is paid from the memory a user gives the cache  -
Worker.wake_up                    sleep at level 2 drops rings and scratch with the       -
                                  weights, and wakes with anything in their place
================================  ======================================================  ==============================

Each wrapper calls straight through when the engine does not ask for KIVI. The V1 ``GPUModelRunner`` is also the base of
the CPU runner. :func:`install` is idempotent and runs in every process, from ``vllm.general_plugins``.
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
    _wrap(type(current_platform), "update_block_size_for_backend", _keep_block_size)
    from vllm.model_executor.layers.attention.attention import Attention

    _wrap(Attention, "get_kv_cache_spec", _kv_cache_spec)
    for runner in _model_runners(current_platform.is_cpu()):
        _wrap(runner, "get_kv_cache_spec", _fit_pages)
        _wrap(runner, "initialize_kv_cache", _initialize_kv_cache)
        _wrap(runner, "execute_model", _execute_model)
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        _wrap(CPUWorker, "determine_available_memory", _available_memory)
    else:
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState
        from vllm.v1.worker.gpu_worker import Worker

        _wrap(Worker, "determine_available_memory", _available_memory)
        _wrap(Worker, "wake_up", _wake_up)
        _wrap(DefaultModelState, "prepare_attn", _prepare_attention)


def _model_runners(cpu: bool) -> list[type]:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if cpu:
        return [GPUModelRunner]
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as GPUModelRunnerV2

    return [GPUModelRunner, GPUModelRunnerV2]


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


def _keep_block_size(original: Callable[..., Any], vllm_config: Any) -> None:
    from vllm_kivi.settings import is_asked_for

    if not is_asked_for(vllm_config):  # otherwise the gate has settled it
        original(vllm_config)


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


def _fit_pages(original: Callable[..., Any], runner: Any) -> Any:
    from vllm_kivi.settings import is_asked_for

    specs = original(runner)
    if not is_asked_for(runner.vllm_config):
        return specs
    from vllm_kivi.cache.pages import fit_pages

    return fit_pages(specs, runner.vllm_config)


def _initialize_kv_cache(
    original: Callable[..., Any], runner: Any, kv_cache_config: Any, *args: Any, **kwargs: Any
) -> Any:
    from vllm_kivi.settings import is_asked_for

    if not is_asked_for(runner.vllm_config):
        return original(runner, kv_cache_config, *args, **kwargs)
    from vllm_kivi.cache.fresh import FreshBlocks
    from vllm_kivi.cache.staging import SlotPool, building
    from vllm_kivi.report import log_report

    runner.kivi_slots = SlotPool(runner.scheduler_config.max_num_seqs)
    token = building.set(runner.kivi_slots)
    try:
        result = original(runner, kv_cache_config, *args, **kwargs)
    finally:
        building.reset(token)
    groups, ours = kv_cache_config.kv_cache_groups, _our_layers(runner.vllm_config)
    # In a group of its own every layer has memory of its own.
    runner.kivi_fresh = FreshBlocks([g.kv_cache_spec.block_size for g in groups], ours) if len(groups) > 1 else None
    log_report(runner.vllm_config, kv_cache_config)
    return result


def _our_layers(vllm_config: Any) -> list[Any]:
    """The attention layers of this worker that keep a KIVI cache."""
    from vllm_kivi.config import is_kivi_dtype

    layers = vllm_config.compilation_config.static_forward_context.values()
    return [layer for layer in layers if is_kivi_dtype(getattr(layer, "kv_cache_dtype", None))]


def _execute_model(original: Callable[..., Any], runner: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
    from vllm_kivi.cache.staging import stepping

    slots = getattr(runner, "kivi_slots", None)
    if slots is None:
        return original(runner, scheduler_output, *args, **kwargs)
    ended = {*scheduler_output.finished_req_ids, *(scheduler_output.preempted_req_ids or ())}
    again = scheduler_output.scheduled_cached_reqs
    started = {request.req_id: request.num_computed_tokens for request in scheduler_output.scheduled_new_reqs}
    resumed = zip(again.req_ids, again.num_computed_tokens, strict=True)
    started |= {request: computed for request, computed in resumed if request in again.resumed_req_ids}
    batch_of_runner = (lambda: runner.input_batch.req_ids) if hasattr(runner, "input_batch") else None
    token = stepping.set(slots)
    try:
        with slots.step(ended, started, batch_of_runner):
            if runner.kivi_fresh is not None:
                runner.kivi_fresh.empty(scheduler_output)
            return original(runner, scheduler_output, *args, **kwargs)
    finally:
        stepping.reset(token)


def _prepare_attention(original: Callable[..., Any], state: Any, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
    from vllm_kivi.cache.staging import stepping

    slots = stepping.get()
    if slots is not None:
        slots.own_rows(input_batch.req_ids)
    return original(state, input_batch, *args, **kwargs)


def _available_memory(original: Callable[..., Any], worker: Any) -> int:
    from vllm.platforms import current_platform

    from vllm_kivi.report import staging_bytes
    from vllm_kivi.settings import is_asked_for

    available = int(original(worker))
    config = worker.vllm_config
    # A GPU's profile has counted the rings already, unless a number of bytes was given and nothing was profiled.
    counted = not current_platform.is_cpu() and config.cache_config.kv_cache_memory_bytes is None
    if counted or not is_asked_for(config):
        return available
    left = available - staging_bytes(config)
    if left <= 0:
        raise ValueError(
            f"KIVI refuses: staging of {config.scheduler_config.max_num_seqs} sequences needs "
            f"{available - left} bytes and the cache memory is {available} bytes: "
            "raise --kv-cache-memory-bytes or lower --max-num-seqs"
        )
    return left


def _wake_up(original: Callable[..., Any], worker: Any, tags: list[str] | None = None) -> None:
    original(worker, tags)
    if tags is None or "weights" in tags:  # our memory was taken while the weights were loaded
        for layer in _our_layers(worker.vllm_config):
            layer.impl.restore()
