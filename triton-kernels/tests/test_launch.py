"""A kernel that is launched again gets what Triton would hand it, and is bound anew where it would be another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton


@pytest.mark.skipif("nvidia" not in triton.backends.backends, reason="this Triton has no NVIDIA backend")
def test_second_launches(tmp_path: Path) -> None:
    script = Path(__file__).with_name("launch_again.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 10
