"""What a session makes of its workers' answers, with workers that measure nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kivi_bench.kernels import session as sessions
from kivi_bench.kernels.document import new_document
from kivi_bench.kernels.process import WorkerLostError
from kivi_bench.kernels.session import Budget, Session, Settings
from kivi_bench.kernels.shapes import Shape
from kivi_bench.kernels.worker import Order

SHAPES = (Shape(1, 512, 4), Shape(4, 512, 4), Shape(16, 512, 4))
MACHINE = {"device": "a GPU", "kernels": None}
OK = {"event": "measured", "elapsed": 0.1, "status": "ok", "bytes": 10, "samplesUs": [2.0]}

Answer = Callable[[str, Shape], dict]


class World:
    """Workers, answered by `answer(name, shape)`, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, out: Path, answer: Answer, refuse: dict | None = None) -> None:
        self.now, self.starts, self.asked, self.out = 0.0, dict[str, int](), list[tuple[str, Shape]](), out
        world = self

        class Worker:
            def __init__(self, order: Order) -> None:
                self.name, self.running = order.name, True
                world.starts[self.name] = world.starts.get(self.name, 0) + 1

            def wait(self, seconds: float) -> dict:
                refused = (refuse or {}).get(self.name)
                return refused or {"event": "ready", "machine": {**MACHINE}, "bytesPerToken": 134.0}

            def ask(self, request: dict, seconds: float) -> dict:
                if "copy" in request:
                    return {"event": "copy", "samplesUs": [1000.0], "floorUs": [2.0]}
                shape = Shape(**request)
                world.asked.append((self.name, shape))
                return answer(self.name, shape)

            def close(self, kill: bool = False) -> None:
                self.running = False

        monkeypatch.setattr(sessions, "WorkerProcess", Worker)

    def run(self, *names: str, budget: float | None = None) -> dict:
        settings = Settings(self.out, self.out.parent, names, SHAPES, 20, None, 60.0, False, 0)
        document = new_document([], {}, names, optional=True)
        return Session(settings, document, Budget(budget, lambda: self.now), lambda _: None).run()


def told(document: dict) -> list[tuple[str, int, str]]:
    return [(one["implementation"], one["batch"], one["status"]) for one in document["measurements"]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "kernels.json"


def test_all_implementations_of_a_shape_come_before_the_next(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    world = World(monkeypatch, out, lambda *_: dict(OK))
    document = world.run("k4v4", "fa3-bf16")
    assert world.asked == [(name, shape) for shape in SHAPES for name in ("k4v4", "fa3-bf16")]
    assert document["machine"]["device"] == "a GPU"
    assert document["copy"]["bytesPerSecond"] == document["copyAtEnd"]["bytesPerSecond"]
    assert document["complete"]
    assert json.loads(out.read_text()) == document


def test_a_process_that_is_lost_costs_one_figure(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    def answer(name: str, shape: Shape) -> dict:
        if name == "k4v4" and shape.batch == 4:
            raise WorkerLostError("its process ended with signal 11")
        if name == "fa3-bf16" and shape.batch == 4:
            return {"event": "measured", "status": "failed", "reason": "CUDA error", "contextLost": True}
        return dict(OK)

    world = World(monkeypatch, out, answer)
    document = world.run("k4v4", "fa3-bf16")
    assert [one for one in told(document) if one[0] == "k4v4"] == [
        ("k4v4", 1, "ok"),
        ("k4v4", 4, "failed"),
        ("k4v4", 16, "ok"),
    ]
    assert ("fa3-bf16", 16, "ok") in told(document)
    assert world.starts == {"k4v4": 2, "fa3-bf16": 2}


def test_one_that_is_lost_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    def answer(_name: str, _shape: Shape) -> dict:
        raise WorkerLostError("no answer within 60 s")

    monkeypatch.setattr(sessions, "_MOST_STARTS", 2)
    document = World(monkeypatch, out, answer).run("k4v4")
    assert told(document) == [("k4v4", 1, "failed"), ("k4v4", 4, "failed"), ("k4v4", 16, "skipped")]
    assert document["implementations"][0]["status"] == "failed"
    assert document["measurements"][-1]["reason"] == "its process was lost 2 times"


def test_a_spent_budget_is_the_reason_of_all_that_was_left_out(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    def answer(_name: str, _shape: Shape) -> dict:
        world.now += 10
        return dict(OK)

    world = World(monkeypatch, out, answer)
    document = world.run("k4v4", "fa3-bf16", budget=25)
    assert [status for _, _, status in told(document)] == ["ok"] * 3 + ["skipped"] * 3
    assert {one["reason"] for one in document["measurements"][3:]} == {"the time budget of 25 s was spent"}


def test_one_that_is_not_there_has_a_reason_and_no_figures(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    refused = {
        "event": "refused",
        "status": "unsupported",
        "reason": "this vLLM has no FlashAttention",
        "traceback": [],
    }
    document = World(monkeypatch, out, lambda *_: dict(OK), {"fa3-bf16": refused}).run("k4v4", "fa3-bf16")
    assert {name for name, _, _ in told(document)} == {"k4v4"}
    assert document["implementations"][1]["reason"] == "this vLLM has no FlashAttention"
