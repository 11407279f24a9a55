"""The GPU backend in the real engine: chunks, decode, prefix hits and random schedules."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from engines import check, check_same_tokens, open_engine
from inprocess import counter, generate
from models import TinyModel, write_checkpoint
from support import prompt
from vllm import SamplingParams
from vllm.v1.attention.ops.merge_attn_states import merge_attn_states

from vllm_kivi.backend.gpu import prefill

MODEL = TinyModel(128, 2, 4, layers=3)
LENGTHS = (1, 120, 127, 128, 129, 250, 300, 700)


@pytest.mark.parametrize(
    ("preset", "dtype", "runner", "eager"),
    [
        ("kivi_k4v4", "bfloat16", "1", False),
        ("kivi_k4v4", "float16", "0", False),
        ("kivi_k2v2", "float16", "1", True),
        ("kivi_k4v2", "bfloat16", "0", True),
    ],
    ids=["k4v4-v2-graphs", "k4v4-v1-graphs", "k2v2-v2-eager", "k4v2-v1-eager"],
)
def test_logits_and_prefix_hits(
    preset: str, dtype: str, runner: str, eager: bool, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continuous batching, chunks of 600 tokens, decode over group edges; the same prompts again hit the cache."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
    checkpoint = write_checkpoint(MODEL, checkpoints)
    prompts = [prompt(n, seed=900 + n) for n in LENGTHS]
    with open_engine(checkpoint, kv_cache_dtype=preset, dtype=dtype, enforce_eager=eager) as llm:
        assert llm.llm_engine.vllm_config.use_v2_model_runner == (runner == "1")
        miss, hit = (generate(llm, prompts, 140) for _ in range(2))
    check(miss, checkpoint, MODEL.head_size, preset, dtype)
    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS]
    if preset == "kivi_k4v4":
        check_same_tokens(hit, miss)


def test_prefill_longer_than_the_slab(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smallest slab, the last chunks of a prompt read their context in pieces, merged by log-sum-exp."""
    monkeypatch.setattr(prefill, "SLAB_BYTES", 1)
    merged = []
    monkeypatch.setattr(prefill, "merge_attn_states", lambda *args: (merged.append(1), merge_attn_states(*args)))
    checkpoint = write_checkpoint(MODEL, checkpoints)
    with open_engine(checkpoint, dtype="bfloat16", enforce_eager=True) as llm:
        outputs = generate(llm, [prompt(n, seed=n) for n in (1900, 40, 1500)], 5)
    assert merged
    check(outputs, checkpoint, MODEL.head_size, "kivi_k4v4", "bfloat16")


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedule_gives_what_each_request_gives_alone(seed: int, checkpoints: Path) -> None:
    """Arrivals, shared prefixes, aborts, chunks and preemption; every finished answer token for token."""
    rng = random.Random(seed)
    checkpoint = write_checkpoint(MODEL, checkpoints)
    prefixes = [prompt(rng.choice((128, 200, 256)), seed=seed * 100 + i) for i in range(3)]
    asked = {
        f"r{i}": (
            (rng.choice(prefixes) if rng.random() < 0.6 else []) + prompt(rng.randint(1, 300), seed=seed * 1000 + i),
            rng.randint(20, 150),
        )
        for i in range(60)
    }
    finished: dict[str, Any] = {}
    with open_engine(
        checkpoint, max_model_len=1024, max_num_batched_tokens=150, max_num_seqs=8, num_gpu_blocks_override=14
    ) as llm:
        core, waiting, running = llm.llm_engine, list(asked), []
        while waiting or core.has_unfinished_requests():
            if waiting and rng.random() < 0.4:
                running.append(waiting.pop())
                tokens, length = asked[running[-1]]
                sampling = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, logprobs=-1)
                core.add_request(running[-1], {"prompt_token_ids": tokens}, sampling)
            if running and rng.random() < 0.01:
                core.abort_request([running.pop(rng.randrange(len(running)))])
            finished |= {output.request_id: output for output in core.step() if output.finished}
        assert counter(llm, "vllm:num_preemptions") > 0
        assert counter(llm, "vllm:prefix_cache_hits") > 0
    assert len(finished) > 40
    answered = [output for output in finished.values() if output.outputs[0].finish_reason == "length"]
    check(answered, checkpoint, MODEL.head_size, "kivi_k4v4", "float16")
    with open_engine(checkpoint, enable_prefix_caching=False) as llm:
        alone = [generate(llm, [asked[output.request_id][0]], asked[output.request_id][1])[0] for output in answered]
    check_same_tokens(answered, alone)
