"""Engines in the test process, on the CPU and on a GPU: opening one, asking it, counting what it did."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def open_llm(checkpoint: Path, **arguments: Any) -> Iterator[Any]:
    """A vLLM engine (class LLM) on a checkpoint without a tokenizer. Raw logits as logprobs, unless asked otherwise."""
    from vllm import LLM

    defaults: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "max_logprobs": -1,
        "logprobs_mode": "raw_logits",
        "disable_log_stats": False,
        "seed": 0,
    }
    llm = LLM(model=str(checkpoint), **{**defaults, **arguments})
    try:
        yield llm
    finally:
        _shut_down(llm)
        del llm
        gc.collect()


def _shut_down(llm: Any) -> None:
    try:
        llm.llm_engine.engine_core.shutdown()
    except RuntimeError as error:
        # The last act of vLLM 0.20's worker is to wait for the accelerator that its torch was built for; the torch of
        # PyPI is CUDA's, here without a GPU.
        if "Found no NVIDIA driver" not in str(error):
            raise


def generate(llm: Any, prompts: list[list[int]], tokens: int) -> list[Any]:
    """Answers of ``tokens`` tokens with the logits of each, greedily."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=-1)
    return llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)


def counter(llm: Any, name: str) -> float:
    """A counter, or a gauge, of vLLM's metrics."""
    return sum(metric.value for metric in llm.get_metrics() if metric.name == name)


def runner_of(llm: Any) -> Any:
    """The model runner of an engine."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def scheduler_of(llm: Any) -> Any:
    """The scheduler of an engine."""
    return llm.llm_engine.engine_core.engine_core.scheduler
