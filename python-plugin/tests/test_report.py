"""What a worker's line says of who wrote it."""

import json
import logging
from pathlib import Path

import pytest
from engine_configs import LLAMA, engine_config
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, KVCacheTensor

import vllm_kivi
from vllm_kivi.cache.spec import KiviFullAttentionSpec
from vllm_kivi.report import MARK, log_report


def test_engines_of_data_parallel_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As vLLM's engine process prepares the configuration of the third engine of a dense model."""
    vllm_kivi.register()
    monkeypatch.setattr("vllm.distributed.get_tensor_model_parallel_rank", lambda: 1)
    config = engine_config(tmp_path / "model", kv_cache_dtype="kivi_k4v4")
    config.parallel_config.data_parallel_index = 2
    config.parallel_config.data_parallel_rank = 0
    spec = KiviFullAttentionSpec(
        block_size=128, num_kv_heads=1, head_size=64, dtype=config.model_config.dtype, record_bytes=8768
    )
    names = [f"layers.{index}" for index in range(LLAMA["num_hidden_layers"])]
    tensors = [KVCacheTensor(size=10 * spec.page_size_bytes, shared_by=[name]) for name in names]
    logger = logging.getLogger("vllm.vllm_kivi")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        log_report(config, KVCacheConfig(10, tensors, [KVCacheGroupSpec(names, spec)]))
    logger.removeHandler(caplog.handler)
    line = json.loads(caplog.messages[-1].removeprefix(MARK))
    assert {name: line[name] for name in ("version", "rank", "data_parallel_rank", "tokens")} == {
        "version": 1, "rank": 1, "data_parallel_rank": 2, "tokens": 1280,
    }  # fmt: skip
