"""Progress of a cell as JSON lines on the standard output, with everything else sent to the cell's log file."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Events:
    """Writes one JSON object a line; `elapsed` is in seconds since the cell began."""

    def __init__(self, descriptor: int) -> None:
        self._out = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
        self._start = time.perf_counter()

    def emit(self, event: str, **fields: Any) -> None:
        elapsed = round(time.perf_counter() - self._start, 3)
        self._out.write(json.dumps({"event": event, "elapsed": elapsed, **fields}) + "\n")

    def say(self, line: str) -> None:
        """For people: kivi shows the last such line of a worker that left no result."""
        self._out.write(line + "\n")


def open_events(log: Path) -> Events:
    """Keeps the present standard output for events and sends descriptors 1 and 2 to `log`.

    Done on descriptors, not on ``sys.stdout``: vLLM's engine and workers are further processes and inherit them, and a
    crash in native code is in the log too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1)
    os.set_inheritable(kept, False)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    return Events(kept)
