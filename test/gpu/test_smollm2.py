"""A real model under k4v4: a GPU answers as the CPU backend did (record_answers.py), which shares no kernel with it.

Needs SmolLM2-135M-Instruct from bench/fetch_smollm2.py: ``KIVI_SMOLLM2=FOLDER pytest test/gpu/test_smollm2.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import open_engine, oracles
from record_answers import CANDIDATES, RECORD, TOKENS
from vllm import SamplingParams

MODEL = os.environ.get("KIVI_SMOLLM2", "")
TIE = 0.6
"""Nats. Two tokens this near by the oracle may change places: the CPU backend itself does so up to 0.58 apart from
float32 to 16 bits, where a few keys land on the other side of a rounding edge. By the record the gap may be wider: the
rings' eight bits move it by 0.13 on average and 1 at the 99th percentile (the oracle with and without them)."""

NEAR = 0.05
"""Nats, mean of the difference in the log-probability of what the CPU answered (the CPU backend itself: up to 0.03 in
float16, 0.05 in bfloat16)."""

STRIDE = 4
"""Tokens of an answer from one place on, of which all but the first are decoded."""

pytestmark = pytest.mark.skipif(not MODEL, reason="KIVI_SMOLLM2 names no folder")


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return answers


@pytest.fixture(scope="module")
def llm() -> Any:
    with open_engine(Path(MODEL), max_model_len=1024, max_logprobs=20, logprobs_mode="raw_logprobs") as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(recorded: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Log-probabilities [answer, vocabulary] of each record's answer by the oracle, with eight bits in the rings."""
    head_size = 64
    oracle, _ = oracles(Path(MODEL), head_size, "kivi_k4v4", "float16")
    logits = [oracle.logits(record["prompt"] + record["answer"]) for record in recorded]
    return [x[len(record["prompt"]) - 1 : -1].log_softmax(-1) for x, record in zip(logits, recorded, strict=True)]


def test_greedy_tokens(llm: Any, recorded: list[dict[str, Any]], expected: list[torch.Tensor]) -> None:
    """Decode from many places of each answer on: the same tokens but for ties, and their log-probabilities."""
    places = [(n, at) for n in range(len(recorded)) for at in range(0, TOKENS - STRIDE + 1, STRIDE)]
    prompts = [{"prompt_token_ids": recorded[n]["prompt"] + recorded[n]["answer"][:at]} for n, at in places]
    sampling = SamplingParams(temperature=0, max_tokens=STRIDE, ignore_eos=True, logprobs=0)
    from_cpu, from_oracle = [], []
    for output, (n, at) in zip(llm.generate(prompts, sampling, use_tqdm=False), places, strict=True):
        answer = output.outputs[0]
        for i, (got, entry) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True), start=at):
            want, oracle = recorded[n]["answer"][i], expected[n][i]
            if got != want:
                gap = (oracle.max() - oracle[got]).item()
                assert gap < TIE, f"prompt of {len(recorded[n]['prompt'])} tokens, answer's {i}: {gap:.3f} nats apart"
                break
            if i > at:  # decoded
                from_cpu.append(abs(entry[got].logprob - recorded[n]["logprobs"][i][str(want)]))
                from_oracle.append(abs(entry[got].logprob - oracle[got].item()))
    assert len(from_cpu) > 0.8 * len(places) * (STRIDE - 1)
    mean_cpu, mean_oracle = (sum(off) / len(off) for off in (from_cpu, from_oracle))
    print({"decoded": len(from_cpu), "nats from the CPU": mean_cpu, "from the oracle": mean_oracle})
    assert mean_cpu < NEAR
    assert mean_oracle < NEAR


def test_log_probabilities(llm: Any, recorded: list[dict[str, Any]]) -> None:
    """Prefill over the recorded answers: the log-probability of each of their tokens."""
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=CANDIDATES)
    prompts = [{"prompt_token_ids": record["prompt"] + record["answer"]} for record in recorded]
    for output, record in zip(llm.generate(prompts, sampling, use_tqdm=False), recorded, strict=True):
        scored = output.prompt_logprobs[len(record["prompt"]) :]
        off = [
            abs(step[token].logprob - candidates[str(token)])
            for token, step, candidates in zip(record["answer"], scored, record["logprobs"], strict=True)
        ]
        assert sum(off) / len(off) < NEAR, f"prompt of {len(record['prompt'])} tokens"
