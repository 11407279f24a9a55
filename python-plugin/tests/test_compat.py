"""Where KIVI meets vLLM: with it not asked for, vLLM is as if the plugin were not there."""

import argparse
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import vllm
from engine_configs import engine_config
from vllm.config import CacheConfig, cache, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention.attention import Attention
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE
from vllm.v1.attention import selector
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig, get_attn_backend
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

import vllm_kivi
from vllm_kivi.cache.spec import KiviFullAttentionSpec
from vllm_kivi.compat.wrap import IncompatibleError, wrap
from vllm_kivi.config import CACHE_DTYPES

HOOKS = [
    (type(current_platform), "check_and_update_config"),
    (type(current_platform), "get_attn_backend_cls"),
    (Attention, "get_kv_cache_spec"),
    (GPUModelRunner, "initialize_kv_cache"),
    (GPUModelRunner, "execute_model"),
    (CPUWorker, "determine_available_memory"),
]


pytestmark = pytest.mark.usefixtures("registered")


def test_installing_again_changes_nothing() -> None:
    before = [vars(owner)[name] for owner, name in HOOKS]
    names = cache.CacheDType
    vllm_kivi.register()
    assert [vars(owner)[name] for owner, name in HOOKS] == before
    assert cache.CacheDType is names
    for owner, name in HOOKS:
        original = getattr(owner, name).__wrapped__
        assert not hasattr(original, "__wrapped__") or original.__module__.startswith(("vllm.", "torch.")), name
        assert not original.__module__.startswith("vllm_kivi")


def test_status() -> None:
    assert vllm_kivi.status() == {
        "registered": True,
        "version": vllm_kivi.__version__,
        "vllm": vllm.__version__,
        "presets": ["k4v4", "k4v2", "k2v2"],
    }


@pytest.mark.parametrize("name", CACHE_DTYPES)
def test_our_names_pass_vllms_configuration_and_command_line(name: str) -> None:
    assert CacheConfig(cache_dtype=name).cache_dtype == name
    assert STR_DTYPE_TO_TORCH_DTYPE[name] == torch.uint8
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    assert parser.parse_args(["--kv-cache-dtype", name]).kv_cache_dtype == name


@pytest.mark.parametrize("name", ["kivi_k4v3", "kivi", "nonsense"])
def test_nonsense_is_still_rejected(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"Input should be 'auto'.*'kivi_k2v2'"):
        CacheConfig(cache_dtype=name)
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    with pytest.raises(SystemExit):
        parser.parse_args(["--kv-cache-dtype", name])
    assert "invalid choice" in capsys.readouterr().err


def test_vllms_own_names_are_as_before() -> None:
    ours = set(get_args(cache.CacheDType))
    assert {"auto", "bfloat16", "fp8", "fp8_e4m3"} <= ours
    assert CacheConfig(cache_dtype="fp8").cache_dtype == "fp8"
    assert isinstance(EngineArgs.add_cli_args(FlexibleArgumentParser()), argparse.ArgumentParser)


def selector_config(dtype: str, **changed: Any) -> AttentionSelectorConfig:
    return AttentionSelectorConfig(head_size=64, dtype=torch.bfloat16, kv_cache_dtype=dtype, block_size=128, **changed)


def test_backend_choice_without_kivi_is_the_platforms(folder: Path) -> None:
    platform = type(current_platform)
    config = engine_config(folder)
    with set_current_vllm_config(config):
        for dtype in ("auto", "bfloat16"):
            chosen = platform.get_attn_backend_cls(None, selector_config(dtype), num_heads=3)
            assert chosen == platform.get_attn_backend_cls.__wrapped__(None, selector_config(dtype), num_heads=3)
            assert chosen == AttentionBackendEnum.CPU_ATTN.get_path()


def test_backend_choice_with_kivi(folder: Path) -> None:
    config = engine_config(folder, kv_cache_dtype="kivi_k4v4")
    with set_current_vllm_config(config):
        backend = get_attn_backend(64, torch.bfloat16, "kivi_k4v4")
    assert backend.get_kv_cache_shape(7, 128, 3, 64) == (7, 3, 8768)  # 68.5 bytes a token
    with pytest.raises(ValueError, match="pages hold 128 tokens, vLLM asks for 64"):
        backend.get_kv_cache_shape(7, 64, 3, 64)


def test_backends_of_two_engines_in_one_process_differ(folder: Path) -> None:
    sizes = []
    for settings in ({}, {"value_group": 16}):
        config = engine_config(folder, kv_cache_dtype="kivi_k4v4", additional_config={"kivi": settings})
        with set_current_vllm_config(config):
            sizes.append(get_attn_backend(64, torch.bfloat16, "kivi_k4v4").record_bytes)
    assert sizes[0] < sizes[1]
    assert callable(selector._cached_get_attn_backend.cache_clear)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"use_mla": True}, "has MLA"),
        ({"has_sink": True}, "has attention sinks"),
        ({"has_sliding_window": True}, "has a sliding window"),
        ({"attn_type": "encoder_only"}, "has encoder_only attention"),
    ],
)
def test_layers_of_other_kinds_are_refused(folder: Path, kind: dict[str, Any], message: str) -> None:
    with (
        set_current_vllm_config(engine_config(folder, kv_cache_dtype="kivi_k4v4")),
        pytest.raises(ValueError, match=message),
    ):
        current_platform.get_attn_backend_cls(None, selector_config("kivi_k4v4", **kind), num_heads=3)


@pytest.mark.parametrize("dtype", ["auto", "kivi_k4v4"])
def test_a_layer_reports_its_page(folder: Path, dtype: str) -> None:
    config = engine_config(folder, kv_cache_dtype=dtype)
    with set_current_vllm_config(config):
        layer = Attention(3, 64, 0.125, num_kv_heads=1, cache_config=config.cache_config, prefix="layers.0.attn")
        spec = layer.get_kv_cache_spec(config)
        original = Attention.get_kv_cache_spec.__wrapped__(layer, config)
    if dtype == "auto":
        assert spec == original
        assert type(spec) is FullAttentionSpec
        assert spec.page_size_bytes == 128 * 2 * 64 * 2
    else:
        assert type(spec) is KiviFullAttentionSpec
        assert spec.page_size_bytes == 8768
        assert KiviFullAttentionSpec.merge([spec, spec]) == spec


def test_configuring_without_kivi_is_what_vllm_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = type(current_platform)
    with_plugin = engine_config(folder)
    monkeypatch.setattr(platform, "check_and_update_config", platform.check_and_update_config.__wrapped__)
    without = engine_config(folder)
    assert with_plugin.compute_hash() == without.compute_hash()
    for part in ("cache_config", "scheduler_config", "parallel_config"):
        assert getattr(with_plugin, part) == getattr(without, part)


def test_a_missing_seam_is_named() -> None:
    class Old:
        pass

    with pytest.raises(IncompatibleError, match=r"this vLLM has no .*Old\.execute_model"):
        wrap(Old, "execute_model", lambda *_: None)


def test_wrapping_keeps_methods_and_class_methods_what_they_are() -> None:
    class Owner:
        factor = 2

        def method(self, x: int) -> int:
            return x * self.factor

        @classmethod
        def of_class(cls, x: int) -> int:
            return x * cls.factor

    for name in ("method", "of_class"):
        wrap(Owner, name, lambda original, *args: original(*args) + 1)
        wrap(Owner, name, lambda original, *args: original(*args) + 100)
    assert Owner().method(3) == 7
    assert Owner.of_class(3) == Owner().of_class(3) == 7
