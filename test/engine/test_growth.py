"""The judge of a soak: what it must find, and what it must let pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from growth import ALLOWED_BYTES, Held, growth, process_holds

REST = Held(resident=1 << 30, objects=1_000_000, handles=40, threads=12, staging=1 << 20, slots=1, free_blocks=25)


def test_noise_and_a_warm_up_pass() -> None:
    warm = [replace(REST, resident=1 << 20, handles=10, threads=2)] * 4
    rounds = [replace(REST, resident=REST.resident + (i % 3 << 20)) for i in range(12)]
    figures, problems = growth([*warm, *rounds])
    assert problems == []
    assert abs(figures["resident_grown_bytes"]) < 4 << 20


@pytest.mark.parametrize(
    ("field", "step", "word"),
    [
        ("resident", ALLOWED_BYTES // 4, "resident memory grew by"),
        ("objects", 2_000, "Python's objects grew from"),
        ("handles", 1, "handles grew from"),
        ("threads", 1, "threads grew from"),
        ("staging", 4096, "staging grew from"),
        ("slots", 1, "slots grew from"),
        ("free_blocks", -1, "not given back"),
    ],
)
def test_a_leak_is_found(field: str, step: int, word: str) -> None:
    rounds = [replace(REST, **{field: getattr(REST, field) + step * i}) for i in range(16)]
    _, problems = growth(rounds)
    assert len(problems) == 1
    assert word in problems[0]


def test_too_few_rounds_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="7 rounds are too few"):
        growth([REST] * 7)


def test_the_system_counts_what_this_process_opens(tmp_path_factory: pytest.TempPathFactory) -> None:
    before = process_holds()
    with (tmp_path_factory.mktemp("growth") / "file").open("w"):
        assert process_holds()["handles"] == before["handles"] + 1
    assert process_holds()["handles"] == before["handles"]
    assert before["resident"] > 1 << 20
