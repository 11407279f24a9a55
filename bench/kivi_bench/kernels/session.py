"""A run: all implementations of a shape one after another, shape by shape, saved after each figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivi_bench.kernels import document as documents
from kivi_bench.kernels.process import WorkerLostError, WorkerProcess
from kivi_bench.kernels.shapes import Shape
from kivi_bench.kernels.worker import Order
from kivi_bench.runner import write_atomically

_MOST_STARTS = 3
"""Of one implementation's process: one that dies again and again would take the time of the others."""

_READY_SECONDS = 300.0
"""Imports from a cold disk included."""


class Budget:
    """Seconds of a run, from its construction; None is without end."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def spent(self) -> bool:
        return self.seconds is not None and self.elapsed >= self.seconds


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        names: of the implementations, in the order in which they are measured.
        shapes: in the order in which they are measured.
        timeout: seconds for one figure, its compilation included.
    """

    out: Path
    logs: Path
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    samples: int
    memory: int | None
    timeout: float
    sources: bool
    seed: int


class Session:
    """Measures what the settings ask for into a document of :mod:`kivi_bench.kernels.document`."""

    def __init__(
        self, settings: Settings, document: dict[str, Any], budget: Budget, say: Callable[[str], None]
    ) -> None:
        self._settings, self._document, self._budget, self._say = settings, document, budget, say
        self._workers: dict[str, WorkerProcess] = {}
        self._starts = dict.fromkeys(settings.names, 0)
        self._about = {one["name"]: one for one in document["implementations"]}

    def run(self) -> dict[str, Any]:
        """The complete document; also saved, as it was after every figure."""
        try:
            self._start_all()
            self._copy("copy")
            for index, shape in enumerate(self._settings.shapes):
                running = [name for name in self._settings.names if self._about[name]["status"] == "ok"]
                if self._budget.spent or not running:
                    break
                figures = [self._measure(name, shape) for name in running]
                self._say(
                    f"[{self._budget.elapsed:6.1f} s] {index + 1} of {len(self._settings.shapes)}: {shape.name}: "
                    + ", ".join(figure for figure in figures if figure)
                )
            self._copy("copyAtEnd")
        finally:
            for worker in self._workers.values():
                worker.close()
        self._skip_the_rest()
        self._document["complete"] = True
        self._save()
        return self._document

    def _start_all(self) -> None:
        """Starts all processes at once: they import for long, on many processors."""
        for name in self._settings.names:
            self._start(name)
        for name in self._settings.names:
            self._await_ready(name)
        self._save()

    def _start(self, name: str) -> None:
        settings, log = self._settings, str(self._settings.logs / f"{name}.log")
        self._starts[name] += 1
        self._about[name]["log"] = log
        order = Order(name, settings.sources, settings.samples, settings.memory, settings.seed, log)
        self._workers[name] = WorkerProcess(order)

    def _await_ready(self, name: str) -> None:
        about = self._about[name]
        try:
            event = self._workers[name].wait(_READY_SECONDS)
        except WorkerLostError as error:
            event = {"event": "refused", "status": "failed", "reason": str(error)}
        if event["event"] == "ready":
            about["status"] = "ok"
            about["bytesPerToken"] = event["bytesPerToken"]
            self._note_machine(event["machine"])
        else:
            about.update({key: event[key] for key in ("status", "reason", "traceback") if key in event})
            self._workers.pop(name).close()
            self._say(f"{name}: {about['status']}: {about['reason']}")

    def _note_machine(self, machine: dict[str, Any]) -> None:
        known = self._document["machine"] or {}
        # Not every worker knows everything: KIVI's alone have its kernels.
        self._document["machine"] = {key: known.get(key) or value for key, value in machine.items()}

    def _copy(self, key: str) -> None:
        """Measures the copy bandwidth in the first process that there is."""
        for name, worker in self._workers.items():
            try:
                event = worker.ask({"copy": True}, self._settings.timeout)
            except WorkerLostError as error:
                self._say(f"{name}: no copy bandwidth: {error}")
                continue
            if event["event"] == "copy":
                self._document[key] = documents.copy_entry(event)
                self._save()
                return

    def _measure(self, name: str, shape: Shape) -> str:
        """Measures a figure into the document, and returns it in words; empty where there was nothing to do."""
        if self._budget.spent or not self._alive(name):
            return ""
        try:
            answer = self._workers[name].ask(
                {"batch": shape.batch, "context": shape.context, "ratio": shape.ratio}, self._settings.timeout
            )
        except WorkerLostError as error:
            self._workers.pop(name).close(kill=True)
            answer = {"status": "failed", "reason": str(error)}
        if answer.get("contextLost"):
            self._workers.pop(name).close(kill=True)
        copy = self._document["copy"]
        found = documents.entry(name, shape, answer, None if copy is None else copy["bytesPerSecond"])
        self._document["measurements"].append(found)
        self._save()
        if found["status"] == "ok":
            return f"{name} {found['microseconds']:.1f} us"
        return f"{name} {found['status']} ({found['reason'][:120]})"

    def _alive(self, name: str) -> bool:
        """Starts the process anew where it was lost, some times."""
        worker = self._workers.get(name)
        if worker is not None and worker.running:
            return True
        if worker is not None:
            self._workers.pop(name).close(kill=True)
        if self._starts[name] >= _MOST_STARTS:
            self._about[name].update(status="failed", reason=f"its process was lost {_MOST_STARTS} times")
            return False
        self._start(name)
        self._await_ready(name)
        return bool(self._about[name]["status"] == "ok")

    def _skip_the_rest(self) -> None:
        """Says of every figure that is not there why."""
        done = {(one["implementation"], one["batch"], one["context"], one["ratio"]) for one in self._measurements}
        for shape in self._settings.shapes:
            for name in self._settings.names:
                about = self._about[name]
                if (name, shape.batch, shape.context, shape.ratio) in done or about["status"] == "unsupported":
                    continue
                spent = about["status"] == "ok"
                reason = f"the time budget of {self._budget.seconds:.0f} s was spent" if spent else about["reason"]
                self._measurements.append(documents.entry(name, shape, {"status": "skipped", "reason": reason}, None))

    @property
    def _measurements(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._document["measurements"]
        return found

    def _save(self) -> None:
        self._document["updatedAt"] = documents.now()
        write_atomically(self._settings.out, self._document)
