"""Speculative decoding by n-grams, which vLLM's V1 runner does; a file of its own, see conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import check_same_tokens, open_engine
from inprocess import counter, generate
from models import TinyModel, write_checkpoint
from support import prompt

MODEL = TinyModel(128, 2, 4, layers=3)
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


def test_drafts_leave_no_trace(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy output with and without n-gram drafting, over group edges and with rejections, token for token."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")  # the one that drafts
    checkpoint = write_checkpoint(MODEL, checkpoints)
    loops = [(prompt(40, seed=n) * 20)[: 300 + n] for n in range(0, 140, 20)]
    answers = []
    for drafting in (NGRAM, None):
        with open_engine(checkpoint, speculative_config=drafting) as llm:
            answers.append(generate(llm, loops, 200))
            if drafting:
                accepted = counter(llm, "vllm:spec_decode_num_accepted_tokens")
                assert 0 < accepted < counter(llm, "vllm:spec_decode_num_draft_tokens")
    check_same_tokens(*answers)
