"""Schedules that engine tests drive a step at a time, on the CPU and on a GPU; each returns answers to be checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from inprocess import generate, scheduler_of
from support import prompt, whole
from vllm import SamplingParams


@dataclass(frozen=True)
class Asked:
    """A request: its prompt, and how many tokens it is to be answered with."""

    prompt: list[int]
    answer: int


def requests(seed: int, count: int, longest: int) -> dict[str, Asked]:
    """Requests by name; more than half begin with one of three prefixes, ``longest`` bounds what follows it."""
    rng = random.Random(seed)
    prefixes = [prompt(rng.choice((128, 200, 256)), seed=seed * 100 + i) for i in range(3)]
    return {
        f"r{i}": Asked(
            (rng.choice(prefixes) if rng.random() < 0.6 else [])
            + prompt(rng.randint(1, longest), seed=seed * 10000 + i),
            rng.randint(20, 150),
        )
        for i in range(count)
    }


def drive(
    core: Any, asked: dict[str, Asked], seed: int, arrival: float = 0.4, abort: float = 0.01, logprobs: int = -1
) -> tuple[dict[str, Any], int]:
    """Arrivals and aborts at random; each step brings either with the given probability.

    Returns:
        What was answered to its end, by name, and the number of steps.
    """
    rng = random.Random(seed)
    waiting, running, steps = list(asked), [], 0
    ended: dict[str, Any] = {}
    while waiting or core.has_unfinished_requests():
        if waiting and rng.random() < arrival:
            running.append(waiting.pop())
            request = asked[running[-1]]
            _add(core, running[-1], request.prompt, request.answer, logprobs)
        if running and rng.random() < abort:
            core.abort_request([running.pop(rng.randrange(len(running)))])
        steps += 1
        for output in core.step():
            if output.finished:
                ended[output.request_id] = output
                if output.request_id in running:
                    running.remove(output.request_id)
    return {name: output for name, output in ended.items() if output.outputs[0].finish_reason == "length"}, steps


def answer_after_a_wait(llm: Any, prompts: list[list[int]], tokens: int, served: int = 2, steps: int = 40) -> list[Any]:
    """All prompts decode, then for some steps the budget serves the first few alone, then all go on to their end."""
    core, ended, got = llm.llm_engine, {}, dict.fromkeys(map(str, range(len(prompts))), 0)

    def step() -> None:
        for output in core.step():
            got[output.request_id] = len(output.outputs[0].token_ids)
            if output.finished:
                ended[output.request_id] = output

    for name, each in zip(got, prompts, strict=True):
        _add(core, name, each, tokens)
    while min(got.values()) < 2:
        step()
    with budget(llm, served):
        for _ in range(3):
            step()  # what asynchronous scheduling had under way
        before = dict(got)
        for _ in range(steps):
            step()
        moved = [got[name] - before[name] for name in got]
    assert moved == [steps] * served + [0] * (len(prompts) - served), moved
    while core.has_unfinished_requests():
        step()
    return [ended[name] for name in got]


def aborted_in_prefill_and_in_decode(llm: Any) -> list[Any]:
    """One request is aborted in mid-chunk, one in mid-group; of those the names are used again, by other prompts."""
    core, ended = llm.llm_engine, {}
    for name, length in (("decoding", 50), ("stays", 110), ("prefilling", 400)):
        _add(core, name, prompt(length, seed=length), 60)
    with budget(llm, 100):
        for step in range(300):
            if step == 2:
                core.abort_request(["prefilling"])
            if step == 20:
                core.abort_request(["decoding"])
            if step == 22:
                for name in ("decoding", "prefilling"):
                    _add(core, name, prompt(130 + len(name), seed=131), 60)
            ended |= {output.request_id: output for output in core.step() if output.finished}
            if step > 22 and not core.has_unfinished_requests():
                break
    assert sorted(ended) == ["decoding", "prefilling", "stays"]
    return list(ended.values())


def hits_of_ended_requests(llm: Any) -> list[Any]:
    """Prompts that begin with what others left: one that ended with a group, one a token before, one aborted."""
    exact = generate(llm, [prompt(100, seed=171)], 29)[0]  # the last token of an answer is never computed
    short = generate(llm, [prompt(100, seed=172)], 28)[0]
    core, tokens = llm.llm_engine, prompt(300, seed=173)
    with budget(llm, 100):
        _add(core, "aborted", tokens, 5)
        for _ in range(2):
            core.step()
        core.abort_request(["aborted"])
        while core.has_unfinished_requests():
            core.step()
    begun = [whole(exact)[:128], whole(short)[:128], tokens]
    outputs = [generate(llm, [begin + prompt(9, seed=174)], 6)[0] for begin in begun]
    assert [output.num_cached_tokens for output in outputs] == [128, 0, 128]
    return [exact, short, *outputs]


def cache_emptied_while_running(llm: Any, prompts: list[list[int]], tokens: int) -> list[Any]:
    """vLLM forgets its prefix cache in the middle of all answers, and every request starts again."""

    def forget() -> None:
        assert llm.reset_prefix_cache(reset_running_requests=True)

    return _disturbed(llm, prompts, tokens, {20: forget, 50: forget})


def weights_loaded_anew_while_running(llm: Any, prompts: list[list[int]], tokens: int) -> list[Any]:
    """The same weights again, in mid-group, as after a step of training."""
    return _disturbed(llm, prompts, tokens, {20: lambda: llm.collective_rpc("reload_weights")})


def _disturbed(llm: Any, prompts: list[list[int]], tokens: int, events: dict[int, Callable[[], object]]) -> list[Any]:
    """Answers, with an event before each of some steps."""
    core, ended = llm.llm_engine, {}
    for name, each in enumerate(prompts):
        _add(core, str(name), each, tokens)
    for step in range(10000):
        events.get(step, lambda: None)()
        ended |= {int(output.request_id): output for output in core.step() if output.finished}
        if not core.has_unfinished_requests():
            break
    assert step > max(events)
    return [ended[name] for name in range(len(prompts))]


def samples(llm: Any, tokens: list[int], count: int) -> list[Any]:
    """Different answers to one prompt, each as an output of its own."""
    sampling = SamplingParams(n=count, temperature=1.0, seed=7, max_tokens=20, ignore_eos=True, logprobs=-1)
    output = llm.generate([{"prompt_token_ids": tokens}], sampling, use_tqdm=False)[0]
    assert len({tuple(sample.token_ids) for sample in output.outputs}) == count
    return [_Output(output.prompt_token_ids, [sample]) for sample in output.outputs]


@dataclass(frozen=True)
class _Output:
    """What the checks read of vLLM's RequestOutput."""

    prompt_token_ids: list[int]
    outputs: list[Any]


@contextmanager
def budget(llm: Any, tokens: int) -> Iterator[None]:
    """Let vLLM's scheduler spend at most so many tokens a step."""
    scheduler = scheduler_of(llm)
    usual, scheduler.max_num_scheduled_tokens = scheduler.max_num_scheduled_tokens, tokens
    try:
        yield
    finally:
        scheduler.max_num_scheduled_tokens = usual


def _add(core: Any, name: str, tokens: list[int], answer: int, logprobs: int = -1) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True, logprobs=logprobs)
    core.add_request(name, {"prompt_token_ids": tokens}, sampling)
