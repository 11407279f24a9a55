"""What an engine's configuration may ask for together with KIVI, on vLLM's own configuration objects."""

import json
from pathlib import Path

import pytest
import vllm
from engine_configs import DEEPSEEK, ENCODER_DECODER, LLAMA, MISTRAL, engine_config

from vllm_kivi.config import PRESETS
from vllm_kivi.report import staging_bytes
from vllm_kivi.settings import config_of

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_carried_by_vllms_own_configuration(folder: Path, preset: str) -> None:
    config = engine_config(folder, kv_cache_dtype=f"kivi_{preset}")
    assert config.cache_config.cache_dtype == f"kivi_{preset}"
    assert config.cache_config.block_size == 128
    assert config_of(config) == PRESETS[preset]


def test_settings_are_carried_too(folder: Path) -> None:
    given = {
        "key_group": 256, "value_group": 32, "key_window": 40, "value_residual": 16, "value_window": 8,
        "rotation": True, "clipping": True,
    }  # fmt: skip
    config = engine_config(folder, kv_cache_dtype="kivi_k4v4", additional_config={"kivi": given, "other": 1})
    assert config.cache_config.block_size == 256
    settings = config_of(config).describe()
    assert {name: settings[name] for name in given} == given


def test_a_block_size_of_several_groups_is_kept(folder: Path) -> None:
    config = engine_config(folder, kv_cache_dtype="kivi_k4v4", block_size=256)
    assert config.cache_config.block_size == 256


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"block_size": 64},
            "key_group 128 does not divide the block size 64: use a block size that is a multiple of 128",
        ),
        ({"block_size": 192}, "key_group 128 does not divide the block size 192"),
        ({"additional_config": {"kivi": {"key_group": 96}}}, "key_group must be 32, 64, 128 or 256 tokens, found 96"),
        (
            {"additional_config": {"kivi": {"value_group": 48}}},
            "value_group 48 does not divide the head size 64: use one of",
        ),
        ({"additional_config": {"kivi": {"key_window": "x"}}}, "key_window must be a whole number, found 'x'"),
        (
            {"additional_config": {"kivi": {"key_windw": 3}}},
            r"unknown setting 'key_windw' \(did you mean 'key_window'\?\)",
        ),
        ({"additional_config": {"kivi": []}}, r"'kivi' must be an object of settings, found \[\]"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}},
            "KIVI refuses: speculative decoding",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "KIVI refuses: KV connectors do not carry open groups",
        ),
        ({"runner": "pooling"}, "KIVI refuses: the runner type is 'pooling'"),
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "KIVI refuses: pipeline"),
        (
            {"prefill_context_parallel_size": 2, "distributed_executor_backend": "mp"},
            "KIVI refuses: pipeline and context",
        ),
        (
            {
                "tensor_parallel_size": 3,
                "decode_context_parallel_size": 3,
                "distributed_executor_backend": "mp",
            },
            "KIVI refuses: pipeline and context",
        ),
        (
            {"kv_cache_dtype_skip_layers": ["0", "1"]},
            "KIVI refuses: every attention layer of llama has a sliding window or is named by --kv-cache-dtype-skip-",
        ),
        ({"calculate_kv_scales": True}, "KIVI refuses: --calculate-kv-scales belongs to fp8"),
    ],
)
def test_refused_with_the_reason(folder: Path, args: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_config(folder, kv_cache_dtype="kivi_k4v4", **args)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DEEPSEEK, r"KIVI refuses: deepseek_v2 uses latent attention \(MLA\)"),
        (MISTRAL, "KIVI refuses: every attention layer of mistral has a sliding window"),
        (
            {**LLAMA, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2},
            "KIVI refuses: every attention layer of llama has a sliding window",
        ),
        ({**LLAMA, "attention_chunk_size": 64}, "KIVI refuses: llama has chunked local attention"),
        (ENCODER_DECODER, "KIVI refuses: llama is an encoder-decoder model"),
        ({**LLAMA, "head_dim": 60}, "KIVI refuses: head_size is 60; a positive multiple of 8 is needed"),
    ],
    ids=["MLA", "only windows", "only windows by layer", "chunked", "encoder-decoder", "head size"],
)
def test_models_refused_with_the_reason(folder: Path, model: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_config(folder, model, kv_cache_dtype="kivi_k4v4")
    engine_config(folder, model)  # and served by vLLM itself


def test_layers_with_a_window_are_vllms_own(folder: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    model = {**LLAMA, "num_hidden_layers": 3, "sliding_window": 64, "layer_types": kinds}
    config = engine_config(folder, model, kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["7"])
    assert config.cache_config.kv_cache_dtype_skip_layers == ["7", "sliding_window"]
    assert config.cache_config.block_size == 128
    assert engine_config(folder, model, kv_cache_dtype="kivi_k4v4", dtype="float32").cache_config.block_size == 256
    assert engine_config(folder, model, kv_cache_dtype="kivi_k2v2").cache_config.block_size == 192
    assert engine_config(folder, model, kv_cache_dtype="kivi_k2v2", block_size=128).cache_config.block_size == 128


def test_only_kivi_layers_have_rings(folder: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    model = {**LLAMA, "num_hidden_layers": 3, "sliding_window": 64, "layer_types": kinds}
    whole = engine_config(folder, {**LLAMA, "num_hidden_layers": 3}, kv_cache_dtype="kivi_k4v4")
    mixed = engine_config(folder, model, kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["1"])
    assert staging_bytes(whole) == 3 * staging_bytes(mixed)


def test_a_release_that_was_never_tried_is_refused_for_our_caches_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.27.1")
    with pytest.raises(ValueError, match=r"KIVI refuses: vLLM 0\.27\.1, a CPU build, was never run .*: kivi install"):
        engine_config(folder, kv_cache_dtype="kivi_k4v4", calculate_kv_scales=True)
    engine_config(folder)
    engine_config(folder, kv_cache_dtype="fp8", calculate_kv_scales=True)


def test_several_reasons_come_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a sliding window.*; --calculate-kv-scales belongs to fp8. Serve without"):
        engine_config(folder, MISTRAL, kv_cache_dtype="kivi_k2v2", calculate_kv_scales=True)


def test_settings_without_the_dtype_are_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="'kivi' settings but KIVI is not asked for: add --kv-cache-dtype, one of kivi_k4v4"
    ):
        engine_config(folder, additional_config={"kivi": {"key_window": 1}})


@pytest.mark.parametrize(("ranks", "kv_heads"), [(1, 4), (2, 2), (4, 1), (8, 1)])
def test_a_rank_pays_for_the_heads_it_keeps(folder: Path, ranks: int, kv_heads: int) -> None:
    """Eight ranks keep each of four KV heads twice."""
    model = {**LLAMA, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = engine_config(
        folder, model, kv_cache_dtype="kivi_k4v4", tensor_parallel_size=ranks, distributed_executor_backend="mp"
    )
    assert staging_bytes(config) == config_of(config).staging_bytes_per_sequence(kv_heads, 128, layers=2) * (8 + 1)


def test_the_model_folder_is_what_was_meant(folder: Path) -> None:
    engine_config(folder)
    assert json.loads((folder / "config.json").read_text()) == LLAMA
