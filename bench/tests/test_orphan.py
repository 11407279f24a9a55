import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1]
# A cell with an engine in a process of its own, started in a new group as kivi does.
CELL = (
    "import subprocess, sys, time; from kivi_bench import orphan; orphan.follow_parent();"
    "engine = subprocess.Popen(['sleep', '60']); print(engine.pid, flush=True); time.sleep(60)"
)
KIVI = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CELL!r}], start_new_session={{}})"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_cell_and_its_engine_end_with_a_kivi_that_was_killed() -> None:
    command = [sys.executable, "-c", KIVI.format(True)]
    kivi = subprocess.Popen(command, cwd=BENCH, stdout=subprocess.PIPE, text=True)
    assert kivi.stdout is not None
    engine = int(kivi.stdout.readline())
    assert runs(engine)
    kivi.send_signal(signal.SIGKILL)
    kivi.wait()
    limit = time.monotonic() + 20
    while runs(engine) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not runs(engine)


def test_a_cell_of_somebodys_shell_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from kivi_bench import orphan

    if os.getpgrp() == os.getpid():
        pytest.skip("this test leads a group")
    monkeypatch.setattr(orphan.threading, "Thread", None)
    orphan.follow_parent()
