"""What the scheduler does to a cache, with CUDA graphs and asynchronous scheduling; test/engine has it on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import check, check_by, check_same_tokens, open_engine, oracles
from inprocess import counter, generate, runner_of
from models import TinyModel, write_checkpoint
from schedules import (
    aborted_in_prefill_and_in_decode,
    answer_after_a_wait,
    cache_emptied_while_running,
    drive,
    hits_of_ended_requests,
    requests,
    samples,
    weights_loaded_anew_while_running,
)
from support import prompt

MODEL = TinyModel(128, 2, 4, layers=3)


@pytest.fixture(scope="module")
def llm(checkpoints: Path) -> Iterator[Any]:
    """An engine of the tests that come first: it generates no more once another has run in this process."""
    with open_engine(write_checkpoint(MODEL, checkpoints)) as llm:
        yield llm


@pytest.fixture(scope="module")
def exact(checkpoints: Path) -> Any:
    return oracles(write_checkpoint(MODEL, checkpoints), MODEL.head_size, "kivi_k4v4", "float16")


def test_scheduling_is_asynchronous(llm: Any) -> None:
    assert llm.llm_engine.vllm_config.scheduler_config.async_scheduling
    assert llm.llm_engine.vllm_config.use_v2_model_runner


def test_n_samples_share_the_prompt(llm: Any, exact: Any) -> None:
    check_by(*exact, samples(llm, prompt(190, seed=33), 3))


def test_running_requests_wait_for_many_steps(llm: Any, exact: Any) -> None:
    prompts = [prompt(n, seed=400 + n) for n in (100, 120, 40, 127, 250)]
    check_by(*exact, answer_after_a_wait(llm, prompts, 90))


def test_hits_of_what_ended_or_aborted_requests_left(llm: Any, exact: Any) -> None:
    check_by(*exact, hits_of_ended_requests(llm))


def test_the_prefix_cache_is_emptied_while_requests_run(llm: Any, exact: Any) -> None:
    check_by(*exact, cache_emptied_while_running(llm, [prompt(n, seed=600 + n) for n in (60, 120, 257)], 90))


def test_weights_are_loaded_anew_while_requests_run(llm: Any, exact: Any) -> None:
    outputs = weights_loaded_anew_while_running(llm, [prompt(n, seed=640 + n) for n in (60, 120, 257)], 90)
    check_by(*exact, outputs)


def test_abort_in_prefill_and_in_decode(llm: Any, exact: Any) -> None:
    outputs = aborted_in_prefill_and_in_decode(llm)
    generate(llm, [prompt(3, seed=3)], 1)  # the step that tells the worker who ended
    assert runner_of(llm).kivi_slots.used <= 1
    check_by(*exact, outputs)


def test_block_published_in_the_step_that_fills_it(llm: Any, exact: Any) -> None:
    shared = prompt(260, seed=81)
    outputs = generate(llm, [shared + prompt(n, seed=82 + n) for n in (9, 11, 2)], 4)
    assert [output.num_cached_tokens for output in outputs][1:] == [256, 256]
    check_by(*exact, outputs)


@pytest.mark.parametrize(("seed", "asynchronous"), [(1, True), (2, False)])
def test_random_schedule_gives_what_each_request_gives_alone(seed: int, asynchronous: bool, checkpoints: Path) -> None:
    """Arrivals, shared prefixes, aborts, chunks and preemption; every finished answer token for token."""
    checkpoint, asked = write_checkpoint(MODEL, checkpoints), requests(seed, 60, 300)
    with open_engine(
        checkpoint,
        max_model_len=1024,
        max_num_batched_tokens=150,
        max_num_seqs=8,
        num_gpu_blocks_override=14,
        async_scheduling=asynchronous,
    ) as llm:
        answered, _ = drive(llm.llm_engine, asked, seed)
        assert counter(llm, "vllm:num_preemptions") > 0
        assert counter(llm, "vllm:prefix_cache_hits") > 0
    assert 40 < len(answered) < 60
    check(list(answered.values()), checkpoint, MODEL.head_size, "kivi_k4v4", "float16")
    with open_engine(checkpoint, enable_prefix_caching=False) as llm:
        alone = [generate(llm, [asked[name].prompt], asked[name].answer)[0] for name in answered]
    check_same_tokens(list(answered.values()), alone)
