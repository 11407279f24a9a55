"""What a compiled kernel takes, read off its binary with the tool that comes with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Resources(NamedTuple):
    """Registers of a thread; bytes of stack and local memory of a thread, and of static shared memory of a block."""

    kernel: str
    registers: int
    stack: int
    shared: int
    local: int


def resources(cubin: bytes) -> Resources:
    """Of the one kernel of a binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [_CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    assert len(found) == 1, text
    kernel, *sizes = found[0]
    return Resources(kernel, *map(int, sizes))
