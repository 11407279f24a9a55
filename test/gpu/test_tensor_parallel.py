"""Tensor parallel on two GPUs: ranks in spawned workers, each with its own heads, pages and rings, answer as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import check, check_same_tokens, open_engine
from inprocess import generate
from models import TinyModel, write_checkpoint
from support import prompt, reports_in
from vllm import envs

CASES = {
    "two KV heads on each rank": TinyModel(128, 4, 4, layers=3),
    "one KV head on both ranks": TinyModel(128, 1, 8, layers=3),
}
LENGTHS = (1, 110, 127, 128, 129, 300, 700)

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_answer_as_one(
    case: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # this process has used CUDA
    envs.disable_envs_cache()  # of an earlier engine in this process
    model, prompts = CASES[case], [prompt(n, seed=40 + n) for n in LENGTHS]
    checkpoint = write_checkpoint(model, checkpoints)
    with open_engine(checkpoint, tensor_parallel_size=2, distributed_executor_backend="mp") as llm:
        miss, hit = (generate(llm, prompts, 140) for _ in range(2))
    log = capfd.readouterr()
    with open_engine(checkpoint, dtype="float16") as llm:
        alone = generate(llm, prompts, 140)

    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS]
    check([*miss, *hit], checkpoint, model.head_size, "kivi_k4v4", "float16")
    check_same_tokens(hit, miss)
    check_same_tokens(miss, alone)
    reports = reports_in(log.out + log.err)
    assert [report["rank"] for report in reports] == [0, 1]
    assert {report["page_bytes"] for report in reports} == {model.layers * max(model.kv_heads // 2, 1) * 134 * 128}
