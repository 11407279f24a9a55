"""Real vLLM engines inside the test process: the import of vLLM is paid once, a tiny engine then starts in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

# Engine core and worker in this process: their insides can be looked at. test_processes.py runs them spawned.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from inprocess import open_llm

MEGABYTE = 1 << 20


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def open_engine(checkpoint: Path, **arguments: Any) -> AbstractContextManager[Any]:
    """A small engine of vLLM's CPU build; arguments as LLM's."""
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    defaults: dict[str, Any] = {
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "kv_cache_memory_bytes": 64 * MEGABYTE,
        # By class: vLLM 0.20 and 0.22 take the name "uni" for workers of their own on the CPU.
        "distributed_executor_backend": UniProcExecutor,
        "dtype": "float32",
    }
    return open_llm(checkpoint, **{**defaults, **arguments})


@pytest.fixture(scope="session")
def engine() -> Callable[..., Any]:
    return open_engine
