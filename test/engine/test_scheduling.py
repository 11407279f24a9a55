"""What the scheduler does to a cache: decode across group edges, prefix hits, preemption, abort, random load.

Every case compares logits with the oracle over the request's full sequence; in float32, so that agreement is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MEGABYTE
from inprocess import counter, generate, runner_of, scheduler_of
from models import TinyModel, write_checkpoint
from oracle import Oracle
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
from support import (
    ONE_CODE,
    check_generated,
    error_ratio,
    generated_error,
    generated_logits,
    oracle_for,
    prompt,
    whole,
)

MODEL = TinyModel(64, 2, 3)


@pytest.fixture(scope="module")
def oracle(checkpoints: Path) -> Oracle:
    return oracle_for(write_checkpoint(MODEL, checkpoints), "kivi_k4v4", MODEL.head_size)


@pytest.fixture(scope="module")
def llm(checkpoints: Path, engine: Any) -> Iterator[Any]:
    """An engine of most tests; they come first, because it generates no more once another has run in this process."""
    with engine(write_checkpoint(MODEL, checkpoints), kv_cache_dtype="kivi_k4v4") as llm:
        yield llm


def test_decode_crosses_group_edges(llm: Any, oracle: Oracle) -> None:
    """Batched decode from 1, 120, 127, 128 and 250 tokens on, over the edges at 128 and 256."""
    check_generated(generate(llm, [prompt(n, seed=900 + n) for n in (1, 120, 127, 128, 250)], 140), oracle)


def test_n_samples_share_the_prompt(llm: Any, oracle: Oracle) -> None:
    check_generated(samples(llm, prompt(190, seed=33), 3), oracle)


def test_running_requests_wait_for_many_steps(llm: Any, oracle: Oracle) -> None:
    """A budget of fewer tokens than there are running requests: some wait in mid-group while others cross an edge."""
    prompts = [prompt(n, seed=400 + n) for n in (100, 120, 40, 127, 250)]
    check_generated(answer_after_a_wait(llm, prompts, 90), oracle)


def test_hits_of_what_ended_or_aborted_requests_left(llm: Any, oracle: Oracle) -> None:
    check_generated(hits_of_ended_requests(llm), oracle)


def test_the_prefix_cache_is_emptied_while_requests_run(llm: Any, oracle: Oracle) -> None:
    check_generated(cache_emptied_while_running(llm, [prompt(n, seed=600 + n) for n in (60, 120, 257)], 90), oracle)


@pytest.mark.parametrize(("length", "hit"), [(256, 128), (257, 256), (300, 256), (129, 128), (128, 0)])
def test_prefix_hit_gives_the_logits_of_a_miss(length: int, hit: int, llm: Any, oracle: Oracle) -> None:
    """A whole prompt that is cached recomputes its last block; other prompts their open tokens."""
    tokens = prompt(length, seed=5000 + length)
    miss, again = generate(llm, [tokens], 6)[0], generate(llm, [tokens], 6)[0]
    assert (miss.num_cached_tokens, again.num_cached_tokens) == (0, hit)
    assert whole(miss) == whole(again)
    assert error_ratio(generated_logits(again), generated_logits(miss)) < ONE_CODE
    check_generated([again, miss], oracle)


def test_prefix_hit_that_ends_mid_block(llm: Any, oracle: Oracle) -> None:
    """200 shared tokens: one block is shared, the 72 shared tokens after it are not."""
    shared = prompt(200, seed=71)
    first = generate(llm, [shared + prompt(90, seed=72)], 4)[0]
    second = generate(llm, [shared + prompt(110, seed=73)], 4)[0]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 128)
    check_generated([second, first], oracle)


def test_block_published_in_the_step_that_fills_it(llm: Any, oracle: Oracle) -> None:
    """vLLM publishes a block when it schedules it: the second request hits what the first computes in this step."""
    shared = prompt(260, seed=81)
    outputs = generate(llm, [shared + prompt(9, seed=82), shared + prompt(11, seed=83), shared + prompt(2, seed=84)], 4)
    assert [output.num_cached_tokens for output in outputs][1:] == [256, 256]
    check_generated(outputs, oracle)


def test_answer_is_cached_for_the_next_turn(llm: Any, oracle: Oracle) -> None:
    """Groups closed by decode are read by the next turn's prefill."""
    turn = generate(llm, [prompt(100, seed=91)], 160)[0]
    following = generate(llm, [whole(turn) + prompt(20, seed=92)], 8)[0]
    assert following.num_cached_tokens == 256
    check_generated([following, turn], oracle)


def test_weights_are_loaded_anew_while_requests_run(llm: Any, oracle: Oracle) -> None:
    outputs = weights_loaded_anew_while_running(llm, [prompt(n, seed=640 + n) for n in (60, 120, 257)], 90)
    check_generated(outputs, oracle)


def test_abort_in_prefill_and_in_decode(llm: Any, oracle: Oracle) -> None:
    """Aborts in mid-chunk and mid-group free slot and blocks, and touch nobody else."""
    outputs = aborted_in_prefill_and_in_decode(llm)
    generate(llm, [prompt(3, seed=3)], 1)  # the step that tells the worker who ended
    assert runner_of(llm).kivi_slots.used <= 1
    check_generated(outputs, oracle)


@pytest.mark.parametrize(
    ("cache_dtype", "settings"),
    [("kivi_k4v2", {}), ("kivi_k2v2", {"key_window": 24, "value_window": 60})],
    ids=["value-window", "both-windows"],
)
def test_decode_crosses_window_edges(
    cache_dtype: str, settings: dict[str, int], checkpoints: Path, engine: Any
) -> None:
    """Decode and chunked prefill in the same steps; the newest values are read exactly, out of a ring of their own."""
    checkpoint = write_checkpoint(MODEL, checkpoints)
    lengths = (1, 24, 60, 100, 127, 128, 250)
    with engine(
        checkpoint,
        kv_cache_dtype=cache_dtype,
        max_num_batched_tokens=100,
        additional_config={"kivi": settings},
    ) as llm:
        outputs = generate(llm, [prompt(n, seed=700 + n) for n in lengths], 140)
    check_generated(outputs, oracle_for(checkpoint, cache_dtype, MODEL.head_size, **settings))


def test_prefix_hit_with_windows_reads_what_it_restored_quantized(checkpoints: Path, engine: Any) -> None:
    """A miss has the newest tokens of the prefix in its rings, a hit has them only in pages, whatever the windows ask.

    So the hit is the oracle's whose windows reach back to the end of the hit and no further.
    """
    checkpoint, windows, hit = write_checkpoint(MODEL, checkpoints), {"key_window": 24, "value_window": 60}, 256
    with engine(checkpoint, kv_cache_dtype="kivi_k2v2", additional_config={"kivi": windows}) as llm:
        tokens = prompt(300, seed=5300)
        miss, again = generate(llm, [tokens], 6)[0], generate(llm, [tokens], 6)[0]
    assert (miss.num_cached_tokens, again.num_cached_tokens) == (0, hit)
    oracle = oracle_for(checkpoint, "kivi_k2v2", MODEL.head_size, **windows)
    check_generated([miss], oracle)
    assert generated_error(again, oracle) > 0.01, "a hit that reads as a miss does: the test has no power"
    assert oracle.settings is not None
    oracle.settings |= {"restored": hit}
    check_generated([again], oracle)


def test_preemption_and_resume(checkpoints: Path, engine: Any, oracle: Oracle) -> None:
    """A cache of 8 blocks for 5 requests of 3: some lose their blocks mid-group and start again."""
    with engine(write_checkpoint(MODEL, checkpoints), kv_cache_dtype="kivi_k4v4", num_gpu_blocks_override=9) as llm:
        outputs = generate(llm, [prompt(100 + 7 * i, seed=200 + i) for i in range(5)], 200)
        assert counter(llm, "vllm:num_preemptions") > 0
        assert runner_of(llm).kivi_slots.used <= 5
    check_generated(outputs, oracle)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_load(seed: int, checkpoints: Path, engine: Any, oracle: Oracle) -> None:
    """Arrivals, shared prefixes, aborts and a cache too small for all: every answer equals the oracle's."""
    checkpoint, asked = write_checkpoint(MODEL, checkpoints), requests(seed, 24, 150)
    with engine(
        checkpoint, kv_cache_dtype="kivi_k4v4", max_num_batched_tokens=150, max_num_seqs=8, num_gpu_blocks_override=9
    ) as llm:
        answered, _ = drive(llm.llm_engine, asked, seed)
        assert counter(llm, "vllm:num_preemptions") > 0
        assert counter(llm, "vllm:prefix_cache_hits") > 0
    assert 12 < len(answered) < 24
    check_generated(list(answered.values()), oracle)


def test_the_block_count_is_honest(llm: Any) -> None:
    """vLLM's own number of blocks follows the packed page and what staging leaves of the memory."""
    from vllm_kivi.config import PRESETS

    layout = PRESETS["k4v4"].layout(MODEL.head_size, 128)
    config = scheduler_of(llm).kv_cache_config
    runner = runner_of(llm)
    rings = [layer.impl.ring for layer in runner.compilation_config.static_forward_context.values()]
    staging = sum(ring.nbytes for ring in rings)
    tokens = 128 + 128  # keys wait for their group, values for their run
    assert staging == (8 + 1) * tokens * MODEL.kv_heads * MODEL.head_size * 4 * MODEL.layers
    page = MODEL.layers * layout.page_bytes(MODEL.kv_heads)
    assert config.num_blocks == (64 * MEGABYTE - staging) // page
    assert layout.bytes_per_token == 68.5  # of 256 in bf16
    tensors = runner.kv_caches
    assert {tensor.dtype.itemsize for tensor in tensors} == {1}
    assert sum(tensor.nbytes for tensor in tensors) == config.num_blocks * page
