"""The GPU backend in the real engine against the dense oracle, which runs on the CPU in the model's own dtype.

A model of 16 bits differs from another implementation of itself by 1 % here without any quantization, and a key that
lands on the other side of a rounding edge then moves a whole code; so the allowance is a part of what quantization
does, as for bfloat16 on the CPU. A matrix product depends on the size of its batch in the last bits, so where tokens
are compared, two that the model finds equally likely may take each other's place.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyModel, write_checkpoint
from oracle import Oracle
from support import error_ratio, generated_logits, prompt, settings_of, whole
from vllm import LLM, SamplingParams

MODEL = TinyModel(128, 2, 4, layers=3)
LENGTHS = (1, 120, 127, 128, 129, 250, 300, 700)
ALLOWED = 0.6
"""Error of the logits, as a part of what quantization itself changes."""

TIE = 0.05
"""Logits this near, as a part of their spread, are a tie in 16 bits."""

NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@contextmanager
def open_engine(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    defaults: dict[str, Any] = {
        "kv_cache_dtype": "kivi_k4v4",
        "skip_tokenizer_init": True,
        "max_model_len": 2048,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 600,
        "kv_cache_memory_bytes": 1 << 30,
        "max_logprobs": -1,
        "logprobs_mode": "raw_logits",
        "disable_log_stats": False,
        "dtype": "float16",
        "seed": 0,
    }
    llm = LLM(model=str(checkpoint), **{**defaults, **arguments})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        torch.cuda.empty_cache()


def generate(llm: Any, prompts: list[list[int]], tokens: int = 140) -> list[Any]:
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=-1)
    return llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)


def check(outputs: list[Any], checkpoint: Path, preset: str, dtype: str) -> None:
    oracle, exact = (
        Oracle(checkpoint, {**settings_of(preset, MODEL.head_size), "eight_bits": True}, getattr(torch, dtype)),
        Oracle(checkpoint, None, getattr(torch, dtype)),
    )
    for output in outputs:
        length = len(output.prompt_token_ids)
        want = oracle.logits(whole(output)[:-1])[length - 1 :]
        effect = error_ratio(exact.logits(whole(output)[:-1])[length - 1 :], want)
        error = error_ratio(generated_logits(output), want)
        assert error < max(ALLOWED * effect, 0.02), f"{length} tokens: {error} (quantization itself: {effect})"


def check_same_tokens(outputs: list[Any], others: list[Any]) -> None:
    """The same answers, up to the first place where the model finds both tokens equally likely."""
    for output, other in zip(outputs, others, strict=True):
        logits = generated_logits(output)
        pairs = zip(output.outputs[0].token_ids, other.outputs[0].token_ids, strict=True)
        for at, (token, instead) in enumerate(pairs):
            if token != instead:
                gap = (logits[at, token] - logits[at, instead]).item()
                assert gap < TIE * logits[at].std().item(), f"{len(output.prompt_token_ids)} tokens, answer's {at}"
                break


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
        miss, hit = generate(llm, prompts), generate(llm, prompts)
    check(miss, checkpoint, preset, dtype)
    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS]
    if preset == "kivi_k4v4":
        check_same_tokens(hit, miss)


def test_drafts_leave_no_trace(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy output with and without n-gram drafting, over group edges and with rejections, token for token."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")  # the one that drafts
    checkpoint = write_checkpoint(MODEL, checkpoints)
    loops = [(prompt(40, seed=n) * 20)[: 300 + n] for n in range(0, 140, 20)]
    answers = []
    for drafting in (NGRAM, None):
        with open_engine(checkpoint, speculative_config=drafting) as llm:
            answers.append(generate(llm, loops, 200))
            counted = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
        if drafting:
            assert counted["vllm:spec_decode_num_accepted_tokens"] > 0
            assert counted["vllm:spec_decode_num_accepted_tokens"] < counted["vllm:spec_decode_num_draft_tokens"]
    check_same_tokens(*answers)


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
        counted = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
        assert counted["vllm:num_preemptions"] > 0
        assert counted["vllm:prefix_cache_hits"] > 0
    assert len(finished) > 40
    answered = [output for output in finished.values() if output.outputs[0].finish_reason == "length"]
    check(answered, checkpoint, "kivi_k4v4", "float16")
    with open_engine(checkpoint, enable_prefix_caching=False) as llm:
        alone = [generate(llm, [asked[output.request_id][0]], asked[output.request_id][1])[0] for output in answered]
    check_same_tokens(answered, alone)
