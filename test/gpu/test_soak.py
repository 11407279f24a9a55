"""Half an hour of requests, one a second, as fast as the engine takes them; every answer against its request alone.

KIVI_SOAK_REQUESTS asks for another number than 1800. Alone, a request is one prefill of its prompt and answer, one
request a step and no prefix cache: other kernels than those that decoded the answer, and nothing shared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import open_engine
from inprocess import counter, runner_of
from models import TinyModel, write_checkpoint
from schedules import drive, requests
from support import whole
from vllm import SamplingParams

MODEL = TinyModel(128, 2, 4, layers=3)
REQUESTS = int(os.environ.get("KIVI_SOAK_REQUESTS", "1800"))
OFF = 0.25
"""Nats. The log-probability of a token may differ by this; here that of another token would by 1 to 3."""

NOISE = 0.06
"""Nats. And over an answer, on average (RMS), by this."""

NGRAM = {"method": "ngram", "num_speculative_tokens": 9, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@contextmanager
def engine(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    """Engines of both ways; log-probabilities, which tell two tokens apart as logits do."""
    with open_engine(
        checkpoint, max_model_len=1024, dtype="bfloat16", logprobs_mode="raw_logprobs", **arguments
    ) as llm:
        yield llm


@pytest.mark.parametrize("drafting", [None, NGRAM], ids=["v2", "v1-with-drafts"])
def test_half_an_hour(drafting: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if drafting:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")  # the one that drafts
    count = REQUESTS if drafting is None else REQUESTS // 6
    checkpoint, asked = write_checkpoint(MODEL, checkpoints), requests(7, count, 600)
    with engine(
        checkpoint,
        max_num_batched_tokens=64 if drafting else 200,  # with drafts too few for all
        max_num_seqs=12,
        num_gpu_blocks_override=26,
        **({"speculative_config": drafting} if drafting else {}),
    ) as llm:
        warm, _ = drive(llm.llm_engine, {f"w{n}": x for n, x in enumerate(requests(8, 30, 600).values())}, 1)
        assert warm
        before = torch.cuda.memory_allocated()
        answered, steps = drive(llm.llm_engine, asked, 7, abort=0.005, logprobs=0)
        grown = torch.cuda.memory_allocated() - before
        numbers = {
            "requests": count,
            "answered": len(answered),
            "steps": steps,
            "preemptions": counter(llm, "vllm:num_preemptions"),
            "hit tokens": counter(llm, "vllm:prefix_cache_hits"),
            "drafts accepted": counter(llm, "vllm:spec_decode_num_accepted_tokens"),
            "bytes grown": grown,
        }
        assert numbers["preemptions"] > 0
        assert numbers["hit tokens"] > 0
        assert (numbers["drafts accepted"] > 0) == bool(drafting)
        assert runner_of(llm).kivi_slots.used <= 12
    assert len(answered) > 0.5 * count
    assert grown < 4 << 20

    worst, tokens = 0.0, 0
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    with engine(checkpoint, enable_prefix_caching=False, max_num_seqs=1, max_num_batched_tokens=1024) as llm:
        for name, output in answered.items():
            prompt, answer = {"prompt_token_ids": whole(output)}, output.outputs[0]
            scored = llm.generate([prompt], sampling, use_tqdm=False)[0].prompt_logprobs[len(asked[name].prompt) :]
            off = []
            for token, got, alone in zip(answer.token_ids, answer.logprobs, scored, strict=True):
                own = alone[token].logprob
                off.append(max(abs(got[token].logprob - own), max(each.logprob for each in alone.values()) - own))
                assert off[-1] < OFF, f"{name}, token {len(off) - 1} of the answer: {off[-1]:.2f} nats apart"
            rms = (sum(x * x for x in off) / len(off)) ** 0.5
            assert rms < NOISE, f"{name}: {rms:.3f} nats apart"
            worst, tokens = max(worst, rms), tokens + len(off)
    print(numbers | {"tokens compared": tokens, "worst answer, nats apart": round(worst, 4)})
