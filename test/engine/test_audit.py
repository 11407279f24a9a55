"""The audit in the real engine: small errors while all is well, a large one for a page that changed under its owner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inprocess import generate, runner_of
from models import TinyModel, write_checkpoint
from schedules import hits_of_ended_requests
from support import check_generated, oracle_for, prompt
from vllm import SamplingParams

MODEL = TinyModel(64, 2, 3)
SOUND = 1e-5
"""RMS error ratio in float32. Observed: 1e-6."""


@pytest.fixture(scope="module")
def llm(checkpoints: Path, engine: Any) -> Iterator[Any]:
    settings = {"kivi": {"audit": 1, "key_window": 24, "value_window": 16}}
    with engine(
        write_checkpoint(MODEL, checkpoints), kv_cache_dtype="kivi_k4v4", max_num_seqs=4, additional_config=settings
    ) as llm:
        yield llm


def exposed() -> dict[str, float]:
    """Our samples of this process's registry, the registry of ``/metrics``; those of buckets with their bounds."""
    from prometheus_client import REGISTRY

    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name.startswith("kivi_")
    }


def test_a_sound_cache_has_small_errors(llm: Any, checkpoints: Path) -> None:
    """Over group edges, with windows, hits of the prefix cache and more requests than slots; answers stay as they
    are."""
    outputs = generate(llm, [prompt(n, seed=900 + n) for n in (1, 100, 127, 250, 300)], 60)
    outputs += hits_of_ended_requests(llm)
    oracle = oracle_for(checkpoints / MODEL.name, "kivi_k4v4", MODEL.head_size, key_window=24, value_window=16)
    check_generated(outputs[:5], oracle)
    figures = runner_of(llm).kivi_slots.auditor.figures
    assert figures.failures == 0
    assert figures.steps >= 60
    assert sum(figures.errors) > figures.steps  # several rows of a step
    assert figures.error_max < SOUND
    # Prompts and answers of these close so many groups, the requests with hits some more.
    assert figures.groups_closed >= sum((n + 59) // 128 for n in (1, 100, 127, 250, 300))
    assert figures.staging_slots == 4


def test_metrics_have_what_the_worker_counted(llm: Any) -> None:
    figures, got = runner_of(llm).kivi_slots.auditor.figures, exposed()
    assert got["kivi_audit_steps_total"] == figures.steps
    assert got["kivi_audit_error_ratio_count"] == got["kivi_audit_error_ratio_bucket+Inf"] == sum(figures.errors)
    assert got["kivi_audit_error_ratio_bucket1e-05"] == sum(figures.errors)
    assert got["kivi_audit_error_ratio_max"] == figures.error_max
    assert got["kivi_groups_closed_total"] == figures.groups_closed
    assert got["kivi_staging_slots"] == 4


def test_a_page_that_changes_under_its_owner_shows(llm: Any) -> None:
    core, runner = llm.llm_engine, runner_of(llm)
    auditor = runner.kivi_slots.auditor
    before = auditor.figures.error_max
    sampling = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    core.add_request("victim", {"prompt_token_ids": prompt(300, seed=77)}, sampling)
    for _ in range(10):
        core.step()
    assert auditor.figures.error_max == before
    assert auditor.figures.tokens_held in range(305, 312)
    assert auditor.figures.staging_used == 1
    auditor.layer.kv_cache.random_(generator=None)
    while core.has_unfinished_requests():
        core.step()
    assert auditor.figures.error_max > 0.05
    assert exposed()["kivi_audit_error_ratio_max"] > 0.05
    assert auditor.figures.failures == 0


def test_a_broken_audit_is_counted_and_ends_nothing(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = runner_of(llm).kivi_slots.auditor
    monkeypatch.setattr(auditor.layer.impl, "tap", None)
    assert len(generate(llm, [prompt(20, seed=5)], 5)[0].outputs[0].token_ids) == 5
    assert auditor.figures.failures == 4


def test_without_it_nothing_of_it_exists(checkpoints: Path, engine: Any) -> None:
    with engine(write_checkpoint(MODEL, checkpoints), kv_cache_dtype="kivi_k4v4") as llm:
        runner = runner_of(llm)
        assert runner.kivi_slots.auditor is None
        layers = runner.compilation_config.static_forward_context.values()
        assert all(layer.impl.tap is None for layer in layers)
