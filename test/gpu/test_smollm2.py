"""A real model under k4v4: a GPU answers as the CPU backend did (record_answers.py), which shares no kernel with it.

Needs SmolLM2-135M-Instruct from bench/fetch_smollm2.py: ``KIVI_SMOLLM2=FOLDER pytest test/gpu/test_smollm2.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from engines import open_engine
from record_answers import CANDIDATES, RECORD, TOKENS
from vllm import SamplingParams

MODEL = os.environ.get("KIVI_SMOLLM2", "")
TIE = 0.25
"""Nats. Two tokens this near on the CPU, in float32, may change places on the GPU, in float16 with rings of 8 bits."""

NEAR = 0.05
"""Nats, mean over a request's tokens of the difference in the log-probability of what the CPU answered."""

pytestmark = pytest.mark.skipif(not MODEL, reason="KIVI_SMOLLM2 names no folder")


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return answers


@pytest.fixture(scope="module")
def llm() -> Any:
    with open_engine(Path(MODEL), max_model_len=1024, max_logprobs=20, logprobs_mode="raw_logprobs") as llm:
        yield llm


def test_greedy_tokens(llm: Any, recorded: list[dict[str, Any]]) -> None:
    """Decode: the same tokens up to a tie, and most answers to the end."""
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [{"prompt_token_ids": record["prompt"]} for record in recorded]
    same = 0
    for output, record in zip(llm.generate(prompts, sampling, use_tqdm=False), recorded, strict=True):
        got, want = list(output.outputs[0].token_ids), record["answer"]
        at = next((i for i, pair in enumerate(zip(got, want, strict=True)) if pair[0] != pair[1]), None)
        if at is None:
            same += 1
            continue
        candidates = record["logprobs"][at]
        gap = candidates[str(want[at])] - candidates.get(str(got[at]), -100.0)
        assert gap < TIE, f"prompt of {len(record['prompt'])} tokens, answer's token {at}: {gap:.3f} nats apart"
    assert same >= len(recorded) // 2


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
