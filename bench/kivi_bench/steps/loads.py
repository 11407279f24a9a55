"""Loads whose steps are timed: a long prompt for its first token, and rows that decode in step with each other."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 3


def first_token_seconds(llm: Any, tokens: int, chunk: int, shared: float = 0.0, seed: int = 0) -> list[float]:
    """Seconds from a prompt to its first token, one at a time on an idle engine; the first, a warm-up, is left out.

    Args:
        tokens: of the prompt.
        chunk: prompt tokens of a step at most.
        shared: part of the prompt that an earlier one had and prefix caching restores, 0 to 1.
        seed: another one makes other prompts, of which nothing is in the cache.
    """
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    # The scheduler reads it at every step, so that one engine serves fresh and chunked prompts.
    scheduler.scheduler_config.long_prefill_token_threshold = chunk
    rng = np.random.default_rng([tokens, chunk, int(1000 * shared), seed])
    head = rng.integers(10, _vocabulary(llm), int(tokens * shared))
    if len(head):
        _generate(llm, [head], 1)

    def once() -> float:
        prompt = np.concatenate([head, rng.integers(10, _vocabulary(llm), tokens - len(head))])
        started = time.perf_counter()
        _generate(llm, [prompt], 1)
        return time.perf_counter() - started

    try:
        return [once() for _ in range(1 + REPEATS)][1:]
    finally:
        scheduler.scheduler_config.long_prefill_token_threshold = 0


class Decode:
    """Rows that decode together, each step one token of each.

    Their prompts are restored by prefix caching, so that all begin in one step.

    Args:
        context: tokens of the longest prompt.
        spread: tokens by which others are shorter, evenly. With 0, key groups close in the same step for every row.
    """

    def __init__(self, llm: Any, batch: int, context: int, new: int, spread: int = 0) -> None:
        rng = np.random.default_rng(batch + context)
        shorter = [row * spread // batch for row in range(batch)]
        prompts = [rng.integers(10, _vocabulary(llm), context - less) for less in shorter]
        _generate(llm, prompts, 1)
        self._engine, self._rng, self._vocabulary = llm.llm_engine, rng, _vocabulary(llm)
        for index, prompt in enumerate(prompts):
            self._engine.add_request(f"row{index}", {"prompt_token_ids": prompt.tolist()}, _sampling(new))
        while len(self._engine.step()) < batch:
            pass
        self.steps(4)  # fills the pipeline of asynchronous scheduling

    def steps(self, count: int, joining: int = 0) -> list[float]:
        """Wall seconds between the ends of steps.

        Args:
            joining: tokens of a new prompt that joins the rows in each step; 0: none.
        """
        found, last = [], time.perf_counter()
        for step in range(count):
            if joining:
                prompt = self._rng.integers(10, self._vocabulary, joining).tolist()
                self._engine.add_request(f"joining{step}", {"prompt_token_ids": prompt}, _sampling(1))
            self._engine.step()
            now = time.perf_counter()
            found.append(now - last)
            last = now
        return found

    def finish(self) -> None:
        """Ends what still runs."""
        while self._engine.has_unfinished_requests():
            self._engine.step()


def recorded(act: Callable[[], object]) -> list[dict[str, Any]]:
    """What PyTorch's profiler saw on the GPU: events of a Chrome trace, times in microseconds."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        act()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def _vocabulary(llm: Any) -> int:
    return int(llm.llm_engine.vllm_config.model_config.get_vocab_size())


def _sampling(tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)


def _generate(llm: Any, prompts: list[Any], tokens: int) -> None:
    llm.generate([{"prompt_token_ids": p.tolist()} for p in prompts], _sampling(tokens), use_tqdm=False)
