"""Hooks on vLLM's model runners and workers: whose rows a step has, who ended, and the memory of the rings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_kivi.compat.wrap import wrap


def hook_runners(cpu: bool) -> None:
    """On the CPU build the V1 runner, base of the CPU's own; else V1 and V2.

    Raises:
        IncompatibleError: a runner or worker lacks a method.
    """
    for runner in _model_runners(cpu):
        wrap(runner, "get_kv_cache_spec", _fit_pages)
        wrap(runner, "initialize_kv_cache", _initialize_kv_cache)
        wrap(runner, "execute_model", _execute_model)
    if cpu:
        from vllm.v1.worker.cpu_worker import CPUWorker

        wrap(CPUWorker, "determine_available_memory", _available_memory)
    else:
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState
        from vllm.v1.worker.gpu_worker import Worker

        wrap(Worker, "determine_available_memory", _available_memory)
        wrap(Worker, "wake_up", _wake_up)
        wrap(DefaultModelState, "prepare_attn", _prepare_attention)


def _model_runners(cpu: bool) -> list[type]:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if cpu:
        return [GPUModelRunner]
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as GPUModelRunnerV2

    return [GPUModelRunner, GPUModelRunnerV2]


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
    from vllm_kivi.settings import built_layers, is_asked_for

    if not is_asked_for(runner.vllm_config):
        return original(runner, kv_cache_config, *args, **kwargs)
    from vllm_kivi.audit.auditor import start_audit
    from vllm_kivi.cache.fresh import FreshBlocks
    from vllm_kivi.cache.staging import SlotPool, building
    from vllm_kivi.report import log_report

    runner.kivi_slots = SlotPool(runner.scheduler_config.max_num_seqs)
    token = building.set(runner.kivi_slots)
    try:
        result = original(runner, kv_cache_config, *args, **kwargs)
    finally:
        building.reset(token)
    groups, ours = kv_cache_config.kv_cache_groups, built_layers(runner.vllm_config)
    # In a group of its own every layer has memory of its own.
    runner.kivi_fresh = FreshBlocks([g.kv_cache_spec.block_size for g in groups], ours) if len(groups) > 1 else None
    log_report(runner.vllm_config, kv_cache_config)
    start_audit(runner.vllm_config, runner.kivi_slots)
    return result


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
            result = original(runner, scheduler_output, *args, **kwargs)
            if slots.auditor is not None:
                slots.auditor.after_step(scheduler_output)
            return result
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

    from vllm_kivi.compat.platforms import pin_where_possible
    from vllm_kivi.report import staging_bytes
    from vllm_kivi.settings import is_asked_for

    config = worker.vllm_config
    if is_asked_for(config):
        pin_where_possible(current_platform)  # here begins the worker's first step
    available = int(original(worker))
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
    from vllm_kivi.settings import built_layers

    original(worker, tags)
    if tags is None or "weights" in tags:  # our memory was taken while the weights were loaded
        for layer in built_layers(worker.vllm_config):
            layer.impl.restore()
