"""Minutes of random load on a GPU; every answer against its request alone, and nothing that grows.

KIVI_SOAK_MINUTES asks for another time than eight minutes, and a quarter of it with drafts. Alone, a request is one
prefill of its prompt and answer, one request a step and no prefix cache: other kernels than those that decoded the
answer, and nothing shared.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import open_engine
from growth import Held, at_rest, growth
from inprocess import counter
from models import TinyModel, write_checkpoint
from schedules import drive, requests
from support import whole
from vllm import SamplingParams

MODEL = TinyModel(128, 2, 4, layers=3)
MINUTES = float(os.environ.get("KIVI_SOAK_MINUTES", "8"))
ROUND, SLOTS = 60, 12
"""Requests of a round, and sequences at a time."""

OFF = 0.25
"""Nats. The log-probability of a token may differ by this; here that of another token would by 1 to 3."""

NOISE = 0.08
"""Nats. And over an answer, on average (RMS), by this; ten thousand sound answers stayed below 0.057."""

NGRAM = {"method": "ngram", "num_speculative_tokens": 9, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@contextmanager
def engine(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    """Engines of both ways; log-probabilities, which tell two tokens apart as logits do."""
    with open_engine(
        checkpoint, max_model_len=1024, dtype="bfloat16", logprobs_mode="raw_logprobs", **arguments
    ) as llm:
        yield llm


def load(llm: Any, minutes: float, answers: Path) -> tuple[list[Held], dict[str, int]]:
    """What was held after each round, and counts; the answers go to a file, a line each, so that they hold nothing."""
    held: list[Held] = []
    begin, requested, answered, steps = time.monotonic(), 0, 0, 0
    with answers.open("w") as file:
        while time.monotonic() - begin < 60 * minutes:
            number = 7 + len(held)
            ended, taken = drive(llm.llm_engine, requests(number, ROUND, 600), number, abort=0.005, logprobs=0)
            for name, output in ended.items():
                answer = output.outputs[0]
                own = [got[token].logprob for token, got in zip(answer.token_ids, answer.logprobs, strict=True)]
                file.write(json.dumps([f"{number}, {name}", output.prompt_token_ids, whole(output), own]) + "\n")
            requested, answered, steps = requested + ROUND, answered + len(ended), steps + taken
            del ended
            held.append(at_rest(llm, torch.cuda.memory_allocated))  # the rings and all else that PyTorch holds there
    return held, {"rounds": len(held), "requests": requested, "answered": answered, "steps": steps}


def worst_against_alone(llm: Any, answers: Path) -> dict[str, Any]:
    """Asserts of every answer that its run alone gives the same log-probabilities, and says how far it is at most."""
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    worst, tokens = 0.0, 0
    for line in answers.read_text().splitlines():
        name, prompt_ids, ids, own = json.loads(line)
        scored = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)[0].prompt_logprobs
        off = []
        for token, got, alone in zip(ids[len(prompt_ids) :], own, scored[len(prompt_ids) :], strict=True):
            mine = alone[token].logprob
            off.append(max(abs(got - mine), max(each.logprob for each in alone.values()) - mine))
            assert off[-1] < OFF, f"{name}, token {len(off) - 1} of the answer: {off[-1]:.2f} nats apart"
        rms = (sum(x * x for x in off) / len(off)) ** 0.5
        assert rms < NOISE, f"{name}: {rms:.3f} nats apart"
        worst, tokens = max(worst, rms), tokens + len(off)
    return {"tokens compared": tokens, "worst answer, nats apart": round(worst, 4)}


@pytest.mark.parametrize("drafting", [None, NGRAM], ids=["v2", "v1-with-drafts"])
def test_minutes_of_load(drafting: Any, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if drafting:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")  # the one that drafts
    minutes = MINUTES / 4 if drafting else MINUTES
    checkpoint, answers = write_checkpoint(MODEL, checkpoints), tmp_path / "answers.jsonl"
    with engine(
        checkpoint,
        max_num_batched_tokens=64 if drafting else 200,  # with drafts too few for all
        max_num_seqs=SLOTS,
        num_gpu_blocks_override=26,
        **({"speculative_config": drafting} if drafting else {}),
    ) as llm:
        held, counts = load(llm, minutes, answers)
        figures, problems = growth(held)
        numbers = {
            "minutes": minutes,
            **counts,
            "preemptions": counter(llm, "vllm:num_preemptions"),
            "hit tokens": counter(llm, "vllm:prefix_cache_hits"),
            "drafts accepted": counter(llm, "vllm:spec_decode_num_accepted_tokens"),
            **figures,
        }
    print(numbers)
    assert problems == []
    assert numbers["preemptions"] > 0
    assert numbers["hit tokens"] > 0
    assert (numbers["drafts accepted"] > 0) == bool(drafting)
    assert counts["answered"] > 0.5 * counts["requests"]

    with engine(checkpoint, enable_prefix_caching=False, max_num_seqs=1, max_num_batched_tokens=1024) as llm:
        print(worst_against_alone(llm, answers))
