"""Data sets as texts, through the real library, without a hub."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1]
ROWS = ["First row.", "", "Third: \u00e9\u4e2d."]


# Texts by the words that ask for them: name, config, split, column.
TEXTS = {
    ("prose", "", "train", ""): "First row.\n\n\n\nThird: \u00e9\u4e2d.",
    ("prose", "", "train[1:]", "text"): "\n\nThird: \u00e9\u4e2d.",
    ("kivi-tests/prose", "", "train", ""): "First row.\n\n\n\nThird: \u00e9\u4e2d.",
    ("single", "", "train", ""): "Once.",
    ("pair", "", "train", "answer"): "a",
}
ERRORS = {
    ("prose", "", "test", ""): ("dataset-unreadable", "Unknown split \"test\". Should be one of ['train']"),
    ("prose", "en", "train", ""): ("dataset-unreadable", "'en' not found. Available: ['default']"),
    ("pair", "", "train", ""): ("column-unknown", "no column 'text' of strings; those are question, answer"),
    ("prose", "", "train", "words"): ("column-unknown", "no column 'words' of strings; those are text, other"),
    ("empty", "", "train", ""): ("dataset-unreadable", "doesn't contain any data files"),
    ("kivi-tests/no", "", "train", ""): ("dataset-unreachable", "Couldn't reach 'kivi-tests/no' on the Hub"),
}
# The library takes seconds to import: one process asks for everything.
ASK_ALL = """
import json, runpy, sys
bench, questions = sys.argv[1:]
sys.path.insert(0, bench)
for words in json.loads(questions):
    sys.argv[1:] = words
    runpy.run_path(f"{bench}/dataset.py", run_name="__main__")
"""
Words = tuple[str, str, str, str]


def ask(place: Path, *questions: Words, python: str = sys.executable) -> list[dict[str, Any]]:
    words = json.dumps([[str(place / "texts"), *question] for question in questions])
    env = {**os.environ, "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
    argv = [python, "-c", ASK_ALL, str(BENCH), words]
    printed = subprocess.run(argv, cwd=place, env=env, capture_output=True, text=True, check=True).stdout
    return [json.loads(line.split(" ", 1)[1]) for line in printed.splitlines() if line.startswith("KIVI_TEXT ")]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[Words, dict[str, Any]]:
    """From folders, and from an HF_HOME that holds a data set as if it were from the hub."""
    place = tmp_path_factory.mktemp("datasets")
    write(place / "prose", [{"text": text, "other": "x"} for text in ROWS])
    write(place / "pair", [{"question": "q", "answer": "a", "number": 1}])
    write(place / "single", [{"story": "Once.", "number": 1}])
    (place / "empty").mkdir()
    ask(place, ("prose", "", "train", ""))
    cached = place / "hub" / "datasets"
    shutil.copytree(cached / "prose", cached / "kivi-tests___prose")
    questions = [*TEXTS, *ERRORS]
    return dict(zip(questions, ask(place, *questions), strict=True))


@pytest.mark.parametrize("words", TEXTS)
def test_the_rows_of_a_column_are_the_text(answers: dict[Words, dict[str, Any]], words: Words) -> None:
    assert Path(answers[words]["path"]).read_text(encoding="utf-8") == TEXTS[words]


def test_the_same_text_is_the_same_file(answers: dict[Words, dict[str, Any]]) -> None:
    folder = answers["prose", "", "train", ""]
    assert folder == answers["kivi-tests/prose", "", "train", ""]
    assert folder["rows"] == 3


@pytest.mark.parametrize("words", ERRORS)
def test_what_is_not_there_is_said(answers: dict[Words, dict[str, Any]], words: Words) -> None:
    error, message = ERRORS[words]
    assert answers[words]["error"] == error
    assert message in answers[words]["message"]
    assert answers[words]["hint"]


def test_an_environment_without_the_library(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare")
    [answer] = ask(tmp_path, ("prose", "", "train", ""), python=str(tmp_path / "bare" / "bin" / "python"))
    assert answer["error"] == "datasets-missing"
