"""Models that mix KIVI layers with layers that keep vLLM's own cache: sliding windows, and layers a user names."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MEGABYTE
from inprocess import counter, generate, runner_of, scheduler_of
from models import TinyModel, WindowedModel, write_checkpoint
from oracle import Oracle
from support import (
    ONE_CODE,
    centred,
    check_errors,
    check_generated,
    error_ratio,
    generated_logits,
    oracle_for,
    prompt,
    prompt_logits,
    settings_of,
    whole,
)
from vllm import SamplingParams
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.kv_cache_interface import SlidingWindowSpec

from vllm_kivi.cache.spec import KiviFullAttentionSpec
from vllm_kivi.compat.facts import has_seams_of_0_26
from vllm_kivi.report import MARK, log_report

pytestmark = pytest.mark.skipif(not has_seams_of_0_26(), reason="test_unsupported.py: refused on this vLLM")

WINDOWED = WindowedModel(64, 2, 3)
SKIPPING = TinyModel(64, 2, 3, layers=3)
BLOCK = 256
"""Tokens: of 128, a page would not hold the 32 tokens in float32 that vLLM's own attention needs on the CPU."""


@pytest.fixture(scope="module")
def windowed(checkpoints: Path) -> Oracle:
    return oracle_for(write_checkpoint(WINDOWED, checkpoints), "kivi_k4v4", WINDOWED.head_size)


@pytest.fixture(scope="module")
def llm(checkpoints: Path, engine: Any) -> Iterator[Any]:
    """Chunks of at most 150 tokens. It comes first, because an engine generates no more once another has run."""
    checkpoint = write_checkpoint(WINDOWED, checkpoints)
    with engine(checkpoint, kv_cache_dtype="kivi_k4v4", max_num_batched_tokens=150) as llm:
        yield llm


def kinds_of(llm: Any) -> dict[int, tuple[str, bool]]:
    """Of every layer: its cache dtype, and whether vLLM's own backend attends."""
    layers = runner_of(llm).compilation_config.static_forward_context
    return {
        int(name.split(".")[2]): (layer.kv_cache_dtype, layer.attn_backend is CPUAttentionBackend)
        for name, layer in layers.items()
    }


def report_of(llm: Any, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """What the worker logs of its cache."""
    logger = logging.getLogger("vllm.vllm_kivi")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger.name):
            log_report(runner_of(llm).vllm_config, runner_of(llm).kv_cache_config)
    finally:
        logger.removeHandler(caplog.handler)
    return json.loads(caplog.messages[-1].removeprefix(MARK))


def rings_of(llm: Any) -> int:
    """Bytes of all rings."""
    layers = runner_of(llm).compilation_config.static_forward_context.values()
    return sum(layer.impl.ring.nbytes for layer in layers if layer.kv_cache_dtype != "auto")


def test_layers_with_a_window_keep_vllms_own_cache(llm: Any) -> None:
    own, kivi = ("auto", True), ("kivi_k4v4", False)
    assert kinds_of(llm) == {0: own, 1: own, 2: kivi, 3: own, 4: kivi}
    specs = [group.kv_cache_spec for group in scheduler_of(llm).kv_cache_config.kv_cache_groups]
    assert {type(spec) for spec in specs} == {SlidingWindowSpec, KiviFullAttentionSpec}
    assert {(type(spec), spec.block_size) for spec in specs} == {
        (SlidingWindowSpec, 32),
        (KiviFullAttentionSpec, BLOCK),
    }
    assert len({spec.page_size_bytes for spec in specs}) == 1


def test_the_report_counts_sequences_of_all_groups(llm: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Of 1024 tokens; windows take what they span and one step adds, in blocks of 32, and one block more."""
    report, config = report_of(llm, caplog), scheduler_of(llm).kv_cache_config
    assert (report["layers"], report["plain_layers"], report["block_size"]) == (2, 3, BLOCK)
    assert report["staging_bytes"] == rings_of(llm)
    token = WINDOWED.kv_heads * WINDOWED.head_size
    assert report["bytes_per_token"] == 2 * WINDOWED.kv_heads * 68.5
    assert report["page_bytes"] == 2 * WINDOWED.kv_heads * 68.5 * BLOCK
    kept = 100 - 1 + 150
    blocks = 1024 // BLOCK + 2 * (-(-kept // 32) + 1)  # one group of KIVI layers, two of windows
    assert report["tokens"] == int(config.num_blocks / blocks * 1024)
    sequence = (2 * 1024 + 3 * (-(-kept // 16) + 1) * 16) * 2 * token * 2
    memory = config.num_blocks * report["page_bytes"] + report["staging_bytes"]
    assert report["bf16_tokens"] == memory * 1024 // sequence


def test_prompt_logits_past_window_and_group_edges(llm: Any, windowed: Oracle, checkpoints: Path) -> None:
    prompts = [prompt(length, seed=length) for length in (2, 99, 100, 101, 127, 129, 257, 300, 520)]
    outputs = llm.generate(
        [{"prompt_token_ids": tokens} for tokens in prompts],
        SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, prompt_logprobs=-1),
        use_tqdm=False,
    )
    wanted = [centred(windowed.logits(tokens)[:-1]) for tokens in prompts]
    check_errors([error_ratio(prompt_logits(got), want) for got, want in zip(outputs, wanted, strict=True)])
    exact = Oracle(write_checkpoint(WINDOWED, checkpoints), None)
    assert error_ratio(centred(exact.logits(prompts[-1])[:-1]), wanted[-1]) > ONE_CODE, (
        "exact or not, the oracle sees no change"
    )


def test_decode_crosses_window_and_group_edges(llm: Any, windowed: Oracle) -> None:
    check_generated(generate(llm, [prompt(n, seed=900 + n) for n in (1, 60, 98, 215, 480)], 45), windowed)


@pytest.mark.parametrize(("length", "hit"), [(512, 256), (513, 512), (300, 256), (200, 0)])
def test_prefix_hit_ends_at_a_kivi_block(length: int, hit: int, llm: Any, windowed: Oracle) -> None:
    tokens = prompt(length, seed=5000 + length)
    miss, again = generate(llm, [tokens], 6)[0], generate(llm, [tokens], 6)[0]
    assert (miss.num_cached_tokens, again.num_cached_tokens) == (0, hit)
    assert whole(miss) == whole(again)
    check_generated([again, miss], windowed)


def test_blocks_change_hands_between_kinds(checkpoints: Path, engine: Any, windowed: Oracle) -> None:
    """A pool too small for all: requests lose their blocks and start again, and pages of codes become windows."""
    options = {"max_num_batched_tokens": 150, "num_gpu_blocks_override": 26, "max_model_len": 512}
    with engine(write_checkpoint(WINDOWED, checkpoints), kv_cache_dtype="kivi_k4v4", **options) as llm:
        shared = prompt(256, seed=41)
        outputs = generate(llm, [shared + prompt(20 + 7 * i, seed=200 + i) for i in range(4)], 40)
        outputs += generate(llm, [prompt(90 + 30 * i, seed=300 + i) for i in range(4)], 40)
        assert counter(llm, "vllm:num_preemptions") > 0
        assert counter(llm, "vllm:prefix_cache_hits") > 0
        assert runner_of(llm).kivi_slots.used <= 4
    for output in outputs:  # long, so that most have a code that rounds the other way
        check_generated([output], windowed)


def test_windows_without_the_hybrid_manager(checkpoints: Path, engine: Any, windowed: Oracle) -> None:
    """vLLM then keeps all tokens of all layers in one group of pages of two sizes."""
    checkpoint = write_checkpoint(WINDOWED, checkpoints)
    with engine(checkpoint, kv_cache_dtype="kivi_k4v4", disable_hybrid_kv_cache_manager=True) as llm:
        assert len(scheduler_of(llm).kv_cache_config.kv_cache_groups) == 1
        check_generated(generate(llm, [prompt(n, seed=n) for n in (40, 60, 90, 120, 300)], 10), windowed)


def test_named_layers_keep_vllms_own_cache(checkpoints: Path, engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = write_checkpoint(SKIPPING, checkpoints)
    settings = settings_of("kivi_k4v4", SKIPPING.head_size)
    oracle = Oracle(checkpoint, settings, exact_layers={1})
    every = Oracle(checkpoint, settings)
    with engine(
        checkpoint, kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["1"], max_num_batched_tokens=150
    ) as llm:
        own, kivi = ("auto", True), ("kivi_k4v4", False)
        assert kinds_of(llm) == {0: kivi, 1: own, 2: kivi}
        config = scheduler_of(llm).kv_cache_config
        assert len(config.kv_cache_groups) == 1
        pages = [tensor.size // config.num_blocks for tensor in config.kv_cache_tensors]
        heads, plain = SKIPPING.kv_heads, 2 * SKIPPING.kv_heads * SKIPPING.head_size
        assert sorted(pages) == [68.5 * 128 * heads, 68.5 * 128 * heads, 4 * 128 * plain]
        assert config.num_blocks == (64 * MEGABYTE - rings_of(llm)) // sum(pages)
        report = report_of(llm, caplog)
        assert (report["layers"], report["plain_layers"], report["page_bytes"]) == (2, 1, sum(pages))
        assert report["tokens"] == config.num_blocks * 128
        memory = config.num_blocks * sum(pages) + rings_of(llm)
        assert report["bf16_tokens"] == memory // (3 * 2 * 128 * plain) * 128
        outputs = generate(llm, [prompt(n, seed=600 + n) for n in (1, 60, 118, 120, 250)], 12)
        tokens = prompt(300, seed=77)
        outputs += [generate(llm, [tokens], 6)[0], generate(llm, [tokens], 6)[0]]
        assert [output.num_cached_tokens for output in outputs[-2:]] == [0, 256]
    check_generated(outputs, oracle)
    quantized = every.logits(whole(outputs[-1])[:-1])[299:]
    assert error_ratio(generated_logits(outputs[-1]), quantized) > ONE_CODE, "the named layer made no difference"


def test_preemption_beside_named_layers(checkpoints: Path, engine: Any) -> None:
    checkpoint = write_checkpoint(SKIPPING, checkpoints)
    oracle = Oracle(checkpoint, settings_of("kivi_k4v4", SKIPPING.head_size), exact_layers={0, 2})
    with engine(
        checkpoint, kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["0", "2"], num_gpu_blocks_override=9
    ) as llm:
        outputs = generate(llm, [prompt(110 + 4 * i, seed=200 + i) for i in range(5)], 40)
        assert counter(llm, "vllm:num_preemptions") > 0
    check_generated(outputs, oracle)
