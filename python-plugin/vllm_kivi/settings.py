"""Reads the KIVI settings out of vLLM's own configuration, which vLLM itself carries to every process."""

from __future__ import annotations

from typing import Any

from vllm_kivi.compat.facts import skipped_layers
from vllm_kivi.config import SETTINGS_KEY, ConfigError, KiviConfig, is_kivi_dtype, parse_audit, parse_config


def kivi_settings(vllm_config: Any) -> Any:
    """The ``kivi`` part of ``--additional-config``, or None."""
    additional = vllm_config.additional_config
    return additional.get(SETTINGS_KEY) if isinstance(additional, dict) else None


def is_asked_for(vllm_config: Any) -> bool:
    """Whether this engine is to keep a KIVI cache."""
    return vllm_config.cache_config is not None and is_kivi_dtype(vllm_config.cache_config.cache_dtype)


def config_of(vllm_config: Any) -> KiviConfig:
    """The format that an engine's configuration asks for.

    Raises:
        ConfigError: KIVI is not asked for, or a setting is wrong.
    """
    if not is_asked_for(vllm_config):
        raise ConfigError("KIVI is not asked for: pass --kv-cache-dtype kivi_k4v4")
    return parse_config(vllm_config.cache_config.cache_dtype, kivi_settings(vllm_config))


def audit_rate(vllm_config: Any) -> float:
    """The part of decode steps that this engine audits; 0 without KIVI."""
    return parse_audit(kivi_settings(vllm_config)) if is_asked_for(vllm_config) else 0.0


def built_layers(vllm_config: Any) -> list[Any]:
    """vLLM's attention layers of this worker that keep a KIVI cache; none before the model is built."""
    layers = vllm_config.compilation_config.static_forward_context.values()
    return [layer for layer in layers if is_kivi_dtype(getattr(layer, "kv_cache_dtype", None))]


def kivi_layers(vllm_config: Any) -> int:
    """Attention layers that keep a KIVI cache on this worker: as they were built or, until then, as the model's
    configuration says (``layer_types``) and the user (``--kv-cache-dtype-skip-layers``)."""
    model, skipped = vllm_config.model_config, skipped_layers(vllm_config)
    kinds = dict(enumerate(getattr(model.hf_text_config, "layer_types", None) or ()))
    layers = range(model.get_num_layers(vllm_config.parallel_config))
    return len(built_layers(vllm_config)) or sum(
        kinds.get(n) != "sliding_attention" and str(n) not in skipped for n in layers
    )
