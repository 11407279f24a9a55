"""The audit without an engine: its setting, its error, and the way from workers' files to the metrics page."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from vllm_kivi import reference
from vllm_kivi.audit import metrics
from vllm_kivi.audit.auditor import WORST, error_ratio
from vllm_kivi.config import ConfigError, parse_audit, parse_config


def test_the_rate_is_no_part_of_the_format() -> None:
    assert parse_audit(None) == parse_audit({"key_window": 8}) == 0
    assert parse_audit({"audit": 1}) == 1
    assert parse_config("kivi_k4v4", {"audit": 0.01, "key_window": 8}) == parse_config("kivi_k4v4", {"key_window": 8})


@pytest.mark.parametrize("rate", [-0.1, 1.5, True, "0.1", None, math.nan, math.inf])
def test_other_rates_are_refused(rate: object) -> None:
    with pytest.raises(ConfigError, match="audit must be a number between 0 and 1, found"):
        parse_config("kivi_k4v4", {"audit": rate})


def test_a_slip_of_its_name_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'audits' .did you mean 'audit'"):
        parse_config("kivi_k4v4", {"audits": 0.1})


def test_errors_are_finite() -> None:
    want = torch.ones(2, 4)
    assert error_ratio(want, want) == 0
    assert error_ratio(want * 1.5, want) == 0.5
    assert error_ratio(want, torch.zeros(2, 4)) == WORST
    assert error_ratio(want * math.nan, want) == error_ratio(want * math.inf, want) == WORST


def test_unstage_undoes_stage_bytes(seeded: torch.Generator) -> None:
    x = torch.randn(3, 2, 80, generator=seeded)
    ring = reference.stage_bytes(x)
    assert ring.shape == (3, 2, 90)
    assert reference.unstage(ring).equal(reference.stage(x))
    assert (reference.unstage(ring) - x).abs().max() < 0.05


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    return tmp_path


def page(registry: CollectorRegistry) -> list[str]:
    return generate_latest(registry).decode().splitlines()


def test_every_living_workers_figures_are_on_the_page(folder: Path) -> None:
    registry = CollectorRegistry()
    registry.register(metrics.WorkerFigures())
    assert page(registry) == []
    figures = metrics.Figures(steps=3, tokens_held=7, groups_closed=2)
    for error in (5e-7, 0.003, 0.3):
        figures.add(error)
    metrics.Publisher(folder, {"engine": "0", "rank": "1"}).publish(figures)
    (folder / "4000000.json").write_text("{}")  # of a process that cannot be
    (folder / f"{os.getppid()}.json").write_text("half of a f")
    lines = page(registry)
    assert 'kivi_audit_error_ratio_bucket{engine="0",le="1e-06",rank="1"} 1.0' in lines
    assert 'kivi_audit_error_ratio_bucket{engine="0",le="0.005",rank="1"} 2.0' in lines
    assert 'kivi_audit_error_ratio_bucket{engine="0",le="+Inf",rank="1"} 3.0' in lines
    assert 'kivi_audit_error_ratio_max{engine="0",rank="1"} 0.3' in lines
    assert 'kivi_audit_steps_total{engine="0",rank="1"} 3.0' in lines
    assert 'kivi_tokens_held{engine="0",rank="1"} 7.0' in lines
    assert not [line for line in lines if "4000000" in line]


def test_several_api_servers_have_them_too(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """vLLM then makes a registry of files alone for each request of the page."""
    metrics.expose()
    metrics.expose()
    metrics.Publisher(folder, {"engine": "0"}).publish(metrics.Figures(steps=1))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path_factory.mktemp("vllm")))
    assert page(registry).count('kivi_audit_steps_total{engine="0"} 1.0') == 1


def test_files_are_whole_and_not_written_at_every_step(folder: Path) -> None:
    publisher, figures = metrics.Publisher(folder, {}), metrics.Figures()
    publisher.publish(figures)
    figures.tokens_held = 5
    publisher.publish(figures)  # within the interval
    (file,) = folder.iterdir()
    assert json.loads(file.read_text())["tokens_held"] == 0
    figures.steps += 1  # an audited step is written at once
    publisher.publish(figures)
    assert json.loads(file.read_text())["tokens_held"] == 5
    assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.json"]
