import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1]
# A cell with an engine in a process of its own, started in a new group as kivi does.
CELL = (
    "import subprocess, sys, time; from kivi_bench import orphan; orphan.follow_parent();"
    "engine = subprocess.Popen(['sleep', '60']); print(engine.pid, flush=True); time.sleep(60)"
)
KIVI = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CELL!r}], start_new_session={{}})"


# What stands for vLLM's server: a module, and a program, each with a process of its own.
SERVER = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outlives(kivi: "subprocess.Popen[str]") -> bool:
    """Whether the engine, whose process id it prints, is still there some time after kivi was killed."""
    assert kivi.stdout is not None
    engine = int(kivi.stdout.readline())
    assert runs(engine)
    kivi.send_signal(signal.SIGKILL)
    kivi.wait()
    limit = time.monotonic() + 20
    while runs(engine) and time.monotonic() < limit:
        time.sleep(0.05)
    return runs(engine)


def start(kivi: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", kivi], stdout=subprocess.PIPE, text=True, **options)


def test_a_cell_and_its_engine_end_with_a_kivi_that_was_killed() -> None:
    assert not outlives(start(KIVI.format(True), cwd=BENCH))


@pytest.mark.parametrize("words", [["-m", "served"], ["served.py"]])
def test_a_server_and_its_engine_do_too(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "served.py").write_text(SERVER)
    argv = [sys.executable, str(BENCH / "server.py"), *words]
    kivi = f"import subprocess; subprocess.run({argv!r}, start_new_session=True)"
    assert not outlives(start(kivi, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}))


def test_a_cell_of_somebodys_shell_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from kivi_bench import orphan

    if os.getpgrp() == os.getpid():
        pytest.skip("this test leads a group")
    monkeypatch.setattr(orphan.threading, "Thread", None)
    orphan.follow_parent()
