"""From the workers to ``/metrics``: a small file for each worker, which every API server's registry reads.

vLLM's own way for several API servers is the same, a folder of files that children find by a variable of their parent
(``PROMETHEUS_MULTIPROC_DIR``), but it changes vLLM's own metrics; so this is a folder of ours. It is of one host: a
worker that Ray started on another one publishes there.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = "VLLM_KIVI_METRICS_DIR"
"""Variable that names the folder; made, and removed at exit, by the process that configures the engine first."""

INTERVAL = 1.0
"""Seconds between two writes of a worker, at least; a step that was audited is written at once."""

BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of error ratios. A sound bfloat16 engine stays below 1e-2, its rounding of outputs being 2e-3."""

_made: list[tempfile.TemporaryDirectory[str]] = []


@dataclass
class Figures:
    """Of one worker since its start.

    Attributes:
        steps, failures: that were audited; audits that broke off.
        errors: how many error ratios lie in each of :data:`BUCKETS`, and above; error_sum, error_max: of them.
        tokens_held: of running sequences.
        staging_used, staging_slots: sequences that own a place in the rings, and places.
        groups_closed: key groups, of all sequences, counted in one layer.
    """

    steps: int = 0
    failures: int = 0
    errors: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    error_sum: float = 0.0
    error_max: float = 0.0
    tokens_held: int = 0
    staging_used: int = 0
    staging_slots: int = 0
    groups_closed: int = 0

    def add(self, error: float) -> None:
        """An error ratio of a row."""
        self.errors[bisect_left(BUCKETS, error)] += 1
        self.error_sum += error
        self.error_max = max(self.error_max, error)


class Publisher:
    """Writes a worker's figures, whole or not at all.

    Args:
        folder: None where nobody reads.
        labels: of the metrics, such as engine and rank.
    """

    def __init__(self, folder: Path | None, labels: dict[str, str]) -> None:
        self.file = None if folder is None else folder / f"{os.getpid()}.json"
        self.labels = labels
        self._steps, self._next = -1, 0.0

    def publish(self, figures: Figures) -> None:
        """Now, if a step was audited or the last time was long ago."""
        now = time.monotonic()
        if self.file is None or (figures.steps == self._steps and now < self._next):
            return
        self._steps, self._next = figures.steps, now + INTERVAL
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"labels": self.labels, **asdict(figures)}))
        partial.replace(self.file)


def metrics_folder() -> Path | None:
    """Where this process and its parents agreed to publish."""
    folder = os.environ.get(FOLDER)
    return Path(folder) if folder else None


def expose() -> None:
    """Make the folder, unless a parent has, and put what lies in it on this process's ``/metrics``. Idempotent."""
    if metrics_folder() is None:
        _made.append(tempfile.TemporaryDirectory(prefix="vllm-kivi-metrics-"))
        os.environ[FOLDER] = _made[-1].name
    from prometheus_client import REGISTRY
    from prometheus_client.multiprocess import MultiProcessCollector

    from vllm_kivi.compat.wrap import is_wrapped, wrap

    if is_wrapped(MultiProcessCollector.collect):
        return
    REGISTRY.register(WorkerFigures())
    # Several API servers: vLLM then makes registries of this collector alone.
    wrap(MultiProcessCollector, "collect", lambda original, self: [*original(self), *WorkerFigures().collect()])


class WorkerFigures:
    """A collector of prometheus_client over the files of all living workers of this server."""

    def describe(self) -> list[Any]:
        """Nothing, so that registering it reads no files."""
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        workers = list(_published())
        if not workers:
            return
        names = list(workers[0]["labels"])
        error = HistogramMetricFamily(
            "kivi_audit_error_ratio",
            "RMS error of audited attention outputs against the reference, over the RMS of the reference's.",
            labels=names,
        )
        for worker in workers:
            total, buckets = 0, []
            for bound, count in zip([*map(str, BUCKETS), "+Inf"], worker["errors"], strict=True):
                total += count
                buckets.append((bound, total))
            error.add_metric(list(worker["labels"].values()), buckets, worker["error_sum"])
        yield error
        for kind, key, name, text in (
            (GaugeMetricFamily, "error_max", "kivi_audit_error_ratio_max", "Largest of these errors so far."),
            (CounterMetricFamily, "steps", "kivi_audit_steps", "Decode steps that were audited."),
            (CounterMetricFamily, "failures", "kivi_audit_failures", "Audits that broke off."),
            (GaugeMetricFamily, "tokens_held", "kivi_tokens_held", "Tokens that running sequences hold."),
            (GaugeMetricFamily, "staging_used", "kivi_staging_slots_used", "Sequences with a place in the rings."),
            (GaugeMetricFamily, "staging_slots", "kivi_staging_slots", "Places in the rings."),
            (CounterMetricFamily, "groups_closed", "kivi_groups_closed", "Key groups closed, in one layer."),
        ):
            family = kind(name, text, labels=names)
            for worker in workers:
                family.add_metric(list(worker["labels"].values()), worker[key])
            yield family


def _published() -> Iterator[dict[str, Any]]:
    folder = metrics_folder()
    for file in sorted(folder.glob("*.json")) if folder else []:
        try:
            os.kill(int(file.stem), 0)
            yield json.loads(file.read_text())
        except (OSError, ValueError):  # of a worker that has ended
            continue
