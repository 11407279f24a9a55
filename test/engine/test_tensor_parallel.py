"""Tensor parallel: two ranks in spawned workers, each with its own heads, pages and rings, answer as one rank does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from models import TinyModel, write_checkpoint
from support import check_errors, check_generated, error_ratio, generated_logits, oracle_for, prompt, reports_in, whole
from vllm import SamplingParams, envs

from vllm_kivi.config import PRESETS

LENGTHS = (1, 110, 127, 128, 129, 250, 256, 257)
"""With 20 tokens of answer: prefill up to, on and past the edges at 128 and 256, and decode over them."""

CASES = {
    "a KV head on each rank": TinyModel(64, 2, 3),
    "one KV head on both ranks": TinyModel(64, 1, 4),
}


def generate(llm: Any) -> list[Any]:
    sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=-1)
    return llm.generate([{"prompt_token_ids": prompt(n, seed=40 + n)} for n in LENGTHS], sampling, use_tqdm=False)


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM's CPU workers need here: a core each, without a NUMA node each, and reports in the log."""
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[-1]}")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    # With it vLLM writes a worker's name and its line apart, and another worker may come between.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    # vLLM compiles its split embedding for 20 s; what is tested here is not compiled by it.
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    envs.disable_envs_cache()  # of an earlier engine in this process


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_answer_as_one(case: str, checkpoints: Path, engine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    model = CASES[case]
    checkpoint = write_checkpoint(model, checkpoints)
    with engine(
        checkpoint, kv_cache_dtype="kivi_k4v4", tensor_parallel_size=2, distributed_executor_backend="mp"
    ) as llm:
        miss, hit = generate(llm), generate(llm)
    log = capfd.readouterr()
    with engine(checkpoint, kv_cache_dtype="kivi_k4v4") as llm:
        alone = generate(llm)

    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS]
    check_generated([*miss, *hit], oracle_for(checkpoint, "kivi_k4v4", model.head_size))
    assert [whole(output) for output in miss] == [whole(output) for output in alone]
    pairs = zip(miss, alone, strict=True)
    check_errors([error_ratio(generated_logits(output), generated_logits(one)) for output, one in pairs])

    reports = reports_in(log.out + log.err)
    assert [report["rank"] for report in reports] == [0, 1]
    layout = PRESETS["k4v4"].layout(model.head_size, 128)
    for report in reports:
        assert (report["layers"], report["staging_slots"]) == (model.layers, 8)
        assert report["page_bytes"] == model.layers * layout.page_bytes(1)
        assert report["staging_bytes"] == (8 + 1) * (128 + 128) * model.head_size * 4 * model.layers
        assert report["num_blocks"] == ((64 << 20) - report["staging_bytes"]) // report["page_bytes"]
