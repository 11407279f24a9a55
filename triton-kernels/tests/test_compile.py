"""All kernels compile for every supported architecture without a GPU (ptxas comes with Triton), and spill no tile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

_SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""Shared memory of a thread block, bytes (CUDA C++ Programming Guide, table of technical specifications)."""

_SPILL_LIMIT = 512
"""Bytes of local memory a thread. Tiles of 128 query rows (prefill) spill some of their scalars and masks."""

_BYTE_LOADS_LIMIT = 48
"""Single-byte loads in attention: scales take some, codes none (64 or more when the compiler loses their alignment)."""

# Spread over the architectures: each preset, both ways with value scales, both dtypes.
_CASES = {
    80: ("k4v4:128:4:float16", "k2v2:32:1:float16"),
    90: ("k4v4:128:4:bfloat16", "k2v2:96:16:bfloat16"),
    100: ("k4v2:128:5:bfloat16",),
    120: ("k4v2:256:8:float16",),
}


@pytest.mark.skipif("nvidia" not in triton.backends.backends, reason="this Triton has no NVIDIA backend")
@pytest.mark.parametrize("arch", _CASES)
def test_compiles(arch: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), str(arch), *_CASES[arch]],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 15 * len(_CASES[arch])  # append with a plan and without
    for kernel in kernels:
        assert kernel["shared"] <= _SHARED_LIMIT[arch], kernel
        assert kernel["local"] <= _SPILL_LIMIT, kernel
        assert kernel["narrow"] == 0 or kernel["case"].startswith("k4v4:128"), f"see attend.most_rows: {kernel}"
        assert kernel["kernel"] != "_attend_kernel" or kernel["byte_loads"] <= _BYTE_LOADS_LIMIT, kernel
