"""Real vLLM engines inside the test process: the import of vLLM is paid once, a tiny engine then starts in seconds."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Engine core and worker in this process: their insides can be looked at. test_processes.py runs them spawned.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

MEGABYTE = 1 << 20


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@contextmanager
def open_engine(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    """A vLLM engine (class LLM) on a checkpoint; arguments as LLM's, with small defaults. Raw logits as logprobs."""
    from vllm import LLM

    defaults: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "kv_cache_memory_bytes": 64 * MEGABYTE,
        "distributed_executor_backend": "uni",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logits",
        "disable_log_stats": False,
        "dtype": "float32",
        "seed": 0,
    }
    llm = LLM(model=str(checkpoint), **{**defaults, **arguments})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


@pytest.fixture(scope="session")
def engine() -> Callable[..., Any]:
    return open_engine


def runner_of(llm: Any) -> Any:
    """The model runner of an in-process engine."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def scheduler_of(llm: Any) -> Any:
    """The scheduler of an in-process engine."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def generate(llm: Any, prompts: list[list[int]], tokens: int) -> list[Any]:
    """Answers of ``tokens`` tokens with the logits of each, greedily."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=-1)
    return llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)


def counter(llm: Any, name: str) -> int:
    """A counter of vLLM's metrics."""
    return sum(metric.value for metric in llm.get_metrics() if metric.name == name)
