"""Ends a cell, a server or a load client whose kivi is gone: kill -9 leaves no time to say so, and an engine that
runs on holds its memory.
"""

import os
import signal
import threading
import time

_INTERVAL_SECONDS = 0.5


def follow_parent() -> None:
    """Kills this process and all of its group, vLLM's engine and workers among them, soon after the parent has ended.

    Does nothing where the process does not lead a group of its own, as when somebody runs a cell by hand: its group is
    then their shell's.
    """
    if os.getpgrp() != os.getpid():
        return
    threading.Thread(target=_watch, args=(os.getppid(),), name="follow-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)
