"""Real vLLM engines on a GPU, inside the test process; see test/engine for the CPU build.

Run on a machine with a GPU, in an environment with vLLM, the installed plugin and pytest, each file in a process of its
own (vLLM's V2 runner cannot capture CUDA graphs after the V1 runner did): ``for f in test/gpu/test_*.py; do pytest $f;
done``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Engine core and worker in this process: the model runner can be chosen and looked at.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

import pytest
import torch

if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")
