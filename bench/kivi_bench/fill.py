"""Proof of a capacity: as many tokens as vLLM counts, in its cache at one moment, none of them computed twice."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Steps that the last sequence decodes with all others, so that one more chunk of prompts than planned does no harm.
_TOGETHER = 16


@dataclass(frozen=True)
class Load:
    """One sequence: `prompt` tokens that are given, `new` that are generated."""

    prompt: int
    new: int


def plan(tokens: int, block_size: int, longest: int, most: int, budget: int) -> list[Load]:
    """Sequences that fill the cache together and end in the same step.

    A sequence that is computed early decodes while the prompts of later ones are computed, so it gets the shorter
    prompt and the longer answer.

    Args:
        tokens: what vLLM says that it holds.
        block_size: tokens of a block; sequences take whole ones.
        longest: most tokens of a sequence.
        most: most sequences at once.
        budget: most tokens of a step.
    """
    # vLLM counts one block that it never hands out.
    room = tokens - block_size
    length = longest // block_size * block_size or longest
    lengths = [length] * min(most, room // length)
    rest = (room - sum(lengths)) // block_size * block_size
    if len(lengths) < most and rest > _TOGETHER:
        lengths.append(rest)
    loads: list[Load] = []
    steps: float = min([_TOGETHER, *(length - 1 for length in lengths)])
    for index in reversed(range(len(lengths))):
        new = min(math.ceil(steps), lengths[index] - 1)
        loads.append(Load(lengths[index] - new, new))
        # While this prompt is computed, `index` others decode a token a step.
        steps += loads[-1].prompt / max(1, budget - index)
    return loads[::-1]


@dataclass
class Watch:
    """Counts the tokens that are in the cache at once, from the answers of each step."""

    loads: Sequence[Load]
    peak_tokens: int = 0
    peak_sequences: int = 0

    def __post_init__(self) -> None:
        self._held: dict[int, int] = {}

    def step(self, answers: Sequence[tuple[int, int, bool]]) -> None:
        """Takes the answers of one step: place of a sequence, its new tokens so far, whether it ended.

        The newest token of a sequence is not in the cache yet. A prompt counts from its first answer on.
        """
        for place, new, _ in answers:
            self._held[place] = self.loads[place].prompt + new - 1
        held = sum(self._held.values())
        if held > self.peak_tokens:
            self.peak_tokens, self.peak_sequences = held, len(self._held)
        for place, _, ended in answers:
            if ended:
                del self._held[place]


def run(llm: Any, tokens: int, prompts: Callable[[int], list[int]], progress: Callable[[str], None]) -> dict[str, Any]:
    """The fill suite's result. `prompts(n)` makes n token ids; the engine must count its preemptions."""
    from vllm import SamplingParams

    config = llm.llm_engine.vllm_config
    scheduler = config.scheduler_config
    loads = plan(
        tokens,
        config.cache_config.block_size,
        config.model_config.max_model_len,
        scheduler.max_num_seqs,
        scheduler.max_num_batched_tokens,
    )
    engine = llm.llm_engine
    before = preemptions(llm)
    started = time.perf_counter()
    for place, load in enumerate(loads):
        sampling = SamplingParams(temperature=0.0, max_tokens=load.new, ignore_eos=True, detokenize=False)
        engine.add_request(str(place), {"prompt_token_ids": prompts(load.prompt)}, sampling)
    watch = Watch(loads)
    ended = 0
    while engine.has_unfinished_requests():
        answers = [
            (int(output.request_id), len(output.outputs[0].token_ids), output.finished) for output in engine.step()
        ]
        watch.step(answers)
        if any(finished for _, _, finished in answers):
            ended += sum(finished for _, _, finished in answers)
            progress(f"{ended} of {len(loads)} sequences done")
    return {
        "tokens": tokens,
        "filled_tokens": watch.peak_tokens,
        "sequences": len(loads),
        "filled_sequences": watch.peak_sequences,
        "longest": max((load.prompt + load.new for load in loads), default=0),
        "sequences_limit": scheduler.max_num_seqs,
        "new_tokens": sum(load.new for load in loads),
        "preemptions": preemptions(llm) - before,
        "seconds": time.perf_counter() - started,
    }


def preemptions(llm: Any) -> int:
    """Preemptions since the engine's start, as vLLM counts them."""
    return sum(int(metric.value) for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")
