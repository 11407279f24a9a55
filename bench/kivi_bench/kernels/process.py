"""A worker process as its session sees it: requests out, events in, nothing that waits for ever."""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from kivi_bench.kernels.worker import Order

ENTRY = Path(__file__).resolve().parents[2] / "kernels.py"


class WorkerLostError(RuntimeError):
    """The process ended, or was ended because it did not answer."""


class WorkerProcess:
    """One started worker; close it in any case."""

    def __init__(self, order: Order) -> None:
        self._log = Path(order.log)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, str(ENTRY), "--worker", json.dumps(dataclasses.asdict(order))]
        # Until the worker sends its own errors to the log, they go there too.
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self._events: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(line)
        self._events.put(None)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises WorkerLostError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLostError(self._how_it_ended()) from None
        return self.wait(seconds)

    def wait(self, seconds: float) -> dict[str, Any]:
        """The next event; raises WorkerLostError."""
        try:
            line = self._events.get(timeout=seconds)
        except queue.Empty:
            self.close(kill=True)
            raise WorkerLostError(f"no answer within {seconds:.0f} s") from None
        if line is None:
            raise WorkerLostError(self._how_it_ended())
        event: dict[str, Any] = json.loads(line)
        return event

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its process ended with {how}" + (f": {lines[-1][:300]}" if lines else "")

    def close(self, kill: bool = False) -> None:
        """Ends the process: by the end of its input, or at once."""
        if not kill and self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                kill = True
        if kill:
            self._process.kill()
            self._process.wait()
