"""What KIVI demands of an engine's configuration, checked when the engine is configured, before anything is loaded."""

from __future__ import annotations

from typing import Any

from vllm_kivi.cache.slot_limit import limit_sequences
from vllm_kivi.compat import facts
from vllm_kivi.compat.releases import why_untried
from vllm_kivi.config import CACHE_DTYPES, DEFAULT_BLOCK_SIZE, SETTINGS_KEY, ConfigError, KiviConfig
from vllm_kivi.layout import LayoutError
from vllm_kivi.settings import audit_rate, config_of, is_asked_for, kivi_layers, kivi_settings


def check_before(vllm_config: Any) -> None:
    """Refuse what KIVI cannot serve correctly, then settle the block size.

    Raises:
        ConfigError: the combination, what was found, and what to do instead.
    """
    if not is_asked_for(vllm_config):
        if kivi_settings(vllm_config) is not None:
            raise ConfigError(
                f"--additional-config has {SETTINGS_KEY!r} settings but KIVI is not asked for: "
                f"add --kv-cache-dtype, one of {', '.join(CACHE_DTYPES)}"
            )
        return
    config = config_of(vllm_config)
    untried = _untried()
    # What else to ask of a vLLM that nobody has tried is unknown.
    reasons = [untried] if untried else list(_refusals(vllm_config))
    if reasons:
        raise ConfigError(
            "KIVI refuses: "
            + "; ".join(reasons)
            + f". Serve without --kv-cache-dtype {config.cache_dtype}, or change that setting"
        )
    cache = vllm_config.cache_config
    skipped = facts.skipped_layers(vllm_config)
    if facts.keeps_skipped_layers(vllm_config) and "sliding_window" not in skipped:
        # vLLM's own word for it: such layers keep its own cache and attention.
        cache.kv_cache_dtype_skip_layers = [*skipped, "sliding_window"]
    _settle_block_size(config, vllm_config)
    _forget_chosen_backends()
    if audit_rate(vllm_config):
        from vllm_kivi.audit.metrics import expose

        expose()  # in the API server, before its children start


def check_after(vllm_config: Any) -> None:
    """Once the platform has settled its part: the block size still fits, and staging is affordable."""
    if not is_asked_for(vllm_config) or vllm_config.model_config is None:
        return
    facts.honour_cache_memory(vllm_config)
    _check_layout(config_of(vllm_config), vllm_config)
    limit_sequences(vllm_config)


def backend_path(vllm_config: Any, selector_config: Any) -> str:
    """Dotted path of the backend class for one layer.

    Raises:
        ConfigError: the layer's kind of attention is not supported.
    """
    kinds = {
        "MLA": selector_config.use_mla,
        "sparse attention": selector_config.use_sparse,
        "a sliding window": getattr(selector_config, "has_sliding_window", False),
        "attention sinks": selector_config.has_sink,
        "bidirectional multimodal prefixes": selector_config.use_mm_prefix,
        f"{selector_config.attn_type} attention": selector_config.attn_type != "decoder",
        "non-causal attention": getattr(selector_config, "use_non_causal", False),
    }
    found = [kind for kind, on in kinds.items() if on]
    if found:
        raise ConfigError(
            f"KIVI refuses: a layer of this model has {' and '.join(found)}, which is not supported; "
            "serve the model without --kv-cache-dtype kivi_*"
        )
    from vllm.platforms import current_platform

    from vllm_kivi.backend.base import class_path

    layout = config_of(vllm_config).layout(selector_config.head_size, vllm_config.cache_config.block_size)
    if current_platform.is_cpu():
        from vllm_kivi.backend.cpu.backend import KiviCpuBackend

        return class_path(KiviCpuBackend, layout)
    from vllm_kivi.backend.gpu.backend import KiviGpuBackend

    return class_path(KiviGpuBackend, layout)


def _untried() -> str | None:
    import vllm
    from vllm.platforms import current_platform

    return why_untried(vllm.__version__, current_platform.is_cpu())


def _mixes_layers(vllm_config: Any) -> bool:
    """Whether some layers, though not all, are to keep vLLM's own cache."""
    named = [name for name in facts.skipped_layers(vllm_config) if name != "sliding_window"]
    return bool(named) or vllm_config.model_config.get_sliding_window() is not None


def _refusals(vllm_config: Any) -> Any:
    import vllm
    from vllm.platforms import current_platform

    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    if current_platform.is_cuda():
        yield from _cuda_refusals(vllm_config)
    elif not current_platform.is_cpu():
        yield f"the platform is {current_platform.device_type}; KIVI runs on CUDA and on vLLM's CPU build"
    if model is not None:
        if model.use_mla:
            yield f"{model.hf_config.model_type} uses latent attention (MLA), whose cache has no per-channel keys"
        if model.is_encoder_decoder:
            yield f"{model.hf_config.model_type} is an encoder-decoder model"
        if model.is_attention_free or model.is_hybrid:
            yield f"{model.hf_config.model_type} has state-space layers, which no test covers yet"
        if model.runner_type != "generate":
            yield f"the runner type is {model.runner_type!r}; only text generation is tested"
        if model.attention_chunk_size is not None:
            yield f"{model.hf_config.model_type} has chunked local attention, which no test covers yet"
        if cache.sliding_window is not None or kivi_layers(vllm_config) == 0:
            yield (
                f"every attention layer of {model.hf_config.model_type} has a sliding window or is named by "
                "--kv-cache-dtype-skip-layers and keeps vLLM's own cache, so none is left for KIVI"
            )
        elif not facts.has_seams_of_0_26() and _mixes_layers(vllm_config):
            yield (
                f"{model.hf_config.model_type} has layers with a sliding window, or --kv-cache-dtype-skip-layers names "
                f"some, which no test covers on vLLM {vllm.__version__} (on 0.26 one does)"
            )
    speculative = vllm_config.speculative_config
    if speculative is not None and current_platform.is_cpu():
        yield "speculative decoding is not tested with KIVI on the CPU build"
    elif speculative is not None and speculative.method != "ngram":
        yield f"speculative decoding by {speculative.method!r} is not tested with KIVI yet (by 'ngram' it is)"
    if vllm_config.kv_transfer_config is not None:
        yield "KV connectors do not carry open groups yet"
    if (
        parallel.pipeline_parallel_size > 1
        or parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1
    ):
        yield "pipeline and context parallel are not tested yet"
    unit = facts.prefix_match_unit(vllm_config)
    if unit is not None:
        yield f"--prefix-match-unit {unit} would let a prefix hit end inside a block"
    if facts.calculates_kv_scales(vllm_config):
        yield "--calculate-kv-scales belongs to fp8"
    if current_platform.is_cpu() and facts.uses_v2_runner(vllm_config):
        yield "the V2 model runner is not supported on the CPU build (set VLLM_USE_V2_MODEL_RUNNER=0)"


def _cuda_refusals(vllm_config: Any) -> Any:
    import torch
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    if capability is not None and capability.to_int() < 80:
        yield f"the GPU's compute capability is {capability.as_version_str()}; the kernels need 8.0 (Ampere) or newer"
    model = vllm_config.model_config
    if model is not None and model.dtype not in (torch.float16, torch.bfloat16):
        yield f"the model's dtype is {model.dtype}; the tensor cores take float16 or bfloat16 (--dtype)"
    if model is not None and model.get_sliding_window() is not None and not facts.uses_v2_runner(vllm_config):
        yield (
            f"{model.hf_config.model_type} has sliding-window layers, which on CUDA need vLLM's V2 model runner: under "
            "V1, which this configuration takes, a test failed"
        )
    if vllm_config.parallel_config.enable_dbo:
        yield "dual batch overlap (--enable-dbo) splits a step in two, which no test covers yet"


def _settle_block_size(config: KiviConfig, vllm_config: Any) -> None:
    """Raises ConfigError where the block size, the user's or the smallest of ours, does not fit the model."""
    model = vllm_config.model_config
    if facts.given_block_size(vllm_config) is not None:
        _check_layout(config, vllm_config)
        return
    facts.set_block_size(vllm_config, max(DEFAULT_BLOCK_SIZE, config.key_group))
    _check_layout(config, vllm_config)
    if model is not None and model.get_sliding_window() is not None:
        from vllm_kivi.cache.pages import block_size_beside_windows, block_step

        size = block_size_beside_windows(config, model.get_head_size(), model.dtype.itemsize, block_step())
        facts.set_block_size(vllm_config, size)


def _check_layout(config: KiviConfig, vllm_config: Any) -> None:
    if vllm_config.model_config is None:
        return
    try:
        config.layout(vllm_config.model_config.get_head_size(), vllm_config.cache_config.block_size)
    except LayoutError as error:
        raise ConfigError(f"KIVI refuses: {error}") from error


def _forget_chosen_backends() -> None:
    # vLLM remembers its choice by dtype and head size alone; another engine in this process may have other settings.
    from vllm.v1.attention import selector

    selector._cached_get_attn_backend.cache_clear()
