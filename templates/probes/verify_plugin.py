"""Loads vLLM's general plugins in a spawned process, as vLLM's workers are, and prints what came of ours.

vLLM only logs a plugin that fails to load, and skips one that VLLM_PLUGINS does not name, so the outcome is read
from the plugin itself. The answer is the line that starts with KIVI_VERIFY; vLLM may log around it.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import sys
import traceback
from typing import Any

GROUP = "vllm.general_plugins"
NAME = "kivi"


def verify() -> dict[str, Any]:
    """Outcome with a ``stage`` that names the first thing that did not hold, or ``ok``."""
    entries = [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == NAME]
    if not entries:
        return {"stage": "entry-point", "found": f"no entry point {NAME} in group {GROUP}"}
    if len(entries) > 1:
        owners = [f"{entry.dist.name} {entry.dist.version}" if entry.dist else "?" for entry in entries]
        return {"stage": "entry-point", "found": f"{len(entries)} entry points named {NAME}: {', '.join(owners)}"}

    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and NAME not in allowed.split(","):
        return {"stage": "switched-off", "found": f"VLLM_PLUGINS={allowed}"}

    try:
        from vllm.plugins import load_general_plugins
    except Exception:
        return {"stage": "vllm-import", "found": traceback.format_exc(limit=-3)}
    try:
        load_general_plugins()
        import vllm_kivi
    except Exception:
        return {"stage": "plugin-load", "found": traceback.format_exc(limit=-3)}

    status = vllm_kivi.status()
    answer = {"status": status, "file": vllm_kivi.__file__}
    if not status.get("registered"):
        return {"stage": "register", "found": json.dumps(status, default=str), **answer}
    return {"stage": "ok", **answer}


def answer(connection: Any) -> None:
    """In the worker."""
    connection.send(json.dumps(verify(), default=str))


def ask_worker() -> str:
    """The outcome in a spawned worker, as JSON; a worker that ends without one is an outcome too."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    worker = spawn.Process(target=answer, args=(sender,))
    worker.start()
    sender.close()
    try:
        return str(receiver.recv())
    except EOFError:
        worker.join()
        return json.dumps({"stage": "worker", "found": f"a spawned worker ended with exit code {worker.exitcode}"})


if __name__ == "__main__":
    print("KIVI_VERIFY " + ask_worker(), flush=True)
    sys.exit(0)
