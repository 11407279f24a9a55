"""How many sequences get rings, on vLLM's own configuration objects."""

import logging
from pathlib import Path
from typing import Any

import pytest
from engine_configs import LLAMA, engine_config
from vllm.platforms import current_platform

from vllm_kivi.cache.slot_limit import limit_sequences, typical_slots, whole_graph
from vllm_kivi.report import staging_bytes
from vllm_kivi.settings import config_of

LLAMA_8B = {
    **LLAMA,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
}
CAPTURED = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
"""vLLM's own sizes on a GPU."""


pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    return caplog


def on_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path, memory: int, asked: int, **args: Any) -> Any:
    """The configuration of Llama-8B as a GPU's engine has it, limited."""
    config = engine_config(folder, LLAMA_8B, **{"kv_cache_memory_bytes": 64 << 30, **args})
    config.cache_config.kv_cache_memory_bytes = memory
    config.scheduler_config.max_num_seqs = asked
    config.compilation_config.cudagraph_capture_sizes = CAPTURED
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    limit_sequences(config)
    return config


def test_more_sequences_than_staging_can_pay_for_are_lowered_visibly(
    folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    memory = 8 << 20
    config = engine_config(folder, kv_cache_dtype="kivi_k4v4", kv_cache_memory_bytes=memory, max_num_seqs=256)
    one = config_of(config).staging_bytes_per_sequence(1, 128, layers=2)
    assert config.scheduler_config.max_num_seqs == memory // 4 // one - 1 == 31
    assert staging_bytes(config) <= memory // 4
    assert any("KIVI lowers max_num_seqs from 256 to 31" in record.getMessage() for record in warnings.records)


def test_affordable_sequences_are_left_alone(folder: Path) -> None:
    assert engine_config(folder, kv_cache_dtype="kivi_k4v4").scheduler_config.max_num_seqs == 8


def test_no_memory_for_one_open_group_is_refused_with_what_is_enough(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"raise --kv-cache-memory-bytes to at least (\d+)") as caught:
        engine_config(folder, kv_cache_dtype="kivi_k4v4", kv_cache_memory_bytes=200_000)
    enough = int(str(caught.value).split("at least ")[1].split()[0])
    config = engine_config(folder, kv_cache_dtype="kivi_k4v4", kv_cache_memory_bytes=enough)
    assert config.scheduler_config.max_num_seqs == 1


@pytest.mark.parametrize(
    ("cache", "memory", "asked", "expected"),
    [
        ("k4v4", 5 << 30, 64, 64),  # 60 sequences of 2,304 tokens fit beside their rings
        ("k4v4", 5 << 30, 256, 64),  # 67, to the graph below
        ("k4v2", 5 << 30, 256, 72),
        ("k2v2", 5 << 30, 256, 88),
        ("k4v4", 512 << 20, 256, 4),
        ("k4v4", 100 << 20, 256, 1),
        ("k4v4", 40 << 30, 1024, 256),  # more would be paid by capacity
        ("k4v4", 80 << 30, 1024, 448),  # a twentieth is 454
        ("k4v4", 120 << 30, 1024, 681),  # beyond every graph, where vLLM has none either
    ],
)
def test_a_gpu_has_slots_for_sequences_of_2048_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: str, memory: int, asked: int, expected: int
) -> None:
    config = on_gpu(monkeypatch, folder, memory, asked, kv_cache_dtype=f"kivi_{cache}", max_model_len=8192)
    assert config.scheduler_config.max_num_seqs == expected


def test_a_gpu_with_short_sequences_has_slots_for_those_that_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on_gpu(monkeypatch, folder, 1 << 30, 256, kv_cache_dtype="kivi_k4v4", max_model_len=256)
    assert config.scheduler_config.max_num_seqs == 56  # 57


def test_the_warning_says_what_the_limit_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    on_gpu(monkeypatch, folder, 5 << 30, 256, kv_cache_dtype="kivi_k4v4", max_model_len=8192)
    [line] = [record.getMessage() for record in warnings.records if "KIVI lowers" in record.getMessage()]
    assert "max_num_seqs from 256 to 64: each sequence keeps its newest tokens (128 keys, 128 values" in line
    assert "and 5.37 GB hold that many sequences of 2048 tokens" in line


def test_drafts_count_in_a_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of n sequences with three drafts is one of 4 n tokens."""
    from vllm_kivi.compat.facts import decode_graph_rows

    config = on_gpu(monkeypatch, folder, 5 << 30, 64, kv_cache_dtype="kivi_k4v4", max_model_len=8192)
    monkeypatch.setattr("vllm_kivi.compat.facts.draft_tokens", lambda _: 3)
    assert decode_graph_rows(config)[:6] == [1, 1, 1, 2, 4, 6]


@pytest.mark.parametrize(
    ("slots", "captured", "expected"),
    [(27, CAPTURED, 24), (24, CAPTURED, 24), (3, CAPTURED, 2), (600, CAPTURED, 600), (5, [], 5), (5, [8, 16], 5)],
)
def test_slots_are_those_of_a_graph(slots: int, captured: list[int], expected: int) -> None:
    assert whole_graph(slots, captured) == expected


def test_typical_slots_pay_for_rings_and_pages() -> None:
    assert typical_slots(memory=1000, slot=10, sequence=80.0) == 11  # 11 * 90 + 10 = 1000
    assert typical_slots(memory=999, slot=10, sequence=80.0) == 10
    assert typical_slots(memory=10**9, slot=10, sequence=80.0) == 256
