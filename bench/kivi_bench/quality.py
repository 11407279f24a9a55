"""How much a cache changes what the model says, against the answers of the bf16 cell, in the running engine."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import calls, divergence, greedy, needle, perplexity, reference, text
from .events import Events
from .spec import BASELINE, CellSpec, QualitySpec

# A cache's cell lists more tokens than the reference keeps, so that it lists nearly all of those.
_LISTED_FACTOR = 4


def engine_arguments(spec: QualitySpec) -> dict[str, Any]:
    """What ``vllm.LLM`` needs to list that many log-probabilities."""
    return {"max_logprobs": spec.top_logprobs * _LISTED_FACTOR}


def run(llm: Any, cell: CellSpec, events: Events) -> dict[str, Any]:
    """The quality suite's result. The baseline's cell writes the reference, every other one reads it.

    Raises:
        TextError: the text is too short for what is asked, or the model's output is broken.
        ReferenceMismatchError: there is no reference of the same prompts.
    """
    spec = cell.quality
    assert spec is not None
    assert cell.reference is not None
    content = text.read(spec.text)
    tokenizer = llm.get_tokenizer()
    tokens = tokenizer.encode(content, add_special_tokens=False)
    prefix = text.opening(tokenizer)
    # All prompts first: a text that is too short is found before the engine works.
    windows = perplexity.windows(tokens, spec.window, spec.windows, prefix)
    prompts = greedy.prompts(tokens, spec.prompts, spec.prompt_tokens, spec.seed, prefix)
    questions = needle.questions(
        tokens, spec.needle_lengths, spec.needle_depths, spec.needle_trials, spec.seed, _codec(tokenizer, needle.CUE)
    )
    asked = calls.calls(
        tokens, spec.calls, spec.call_context, spec.seed, tokenizer.decode, _codec(tokenizer, calls.CUE).render
    )
    place = Path(cell.reference)
    known = None if cell.cache == BASELINE else reference.read(place, windows, prompts)

    vocabulary = llm.llm_engine.vllm_config.model_config.get_vocab_size()
    top_logprobs = min(spec.top_logprobs, vocabulary)
    entries = _next_tokens(llm, windows, min(spec.top_logprobs * _LISTED_FACTOR, vocabulary), events)
    moved: dict[str, Any] = {}
    agreed: dict[str, Any] = {}
    if known is None:
        likeliest = [divergence.likeliest(entry, top_logprobs) for entry in entries]
        answers = _answers(llm, prompts, spec, events)
        digest = reference.write(place, _reference(windows, likeliest, prompts, answers))
    else:
        base, digest = known
        moved = _divergence(base, entries)
        agreed = greedy.summarize(base.answers.tolist(), _answers(llm, prompts, spec, events))
    return {
        "text_sha256": text.sha256(content),
        "seed": spec.seed,
        "reference": {"path": str(place), "sha256": digest},
        "divergence": {
            "window": spec.window,
            "windows": len(windows),
            "scored_tokens": len(windows) * (spec.window - 1),
            "top_logprobs": top_logprobs,
            **moved,
        },
        "greedy": {
            "prompts": spec.prompts,
            "prompt_tokens": spec.prompt_tokens,
            "new_tokens": spec.new_tokens,
            **agreed,
        },
        "needle": {
            "questions": len(questions),
            "trials": spec.needle_trials,
            "chat_template": _has_template(tokenizer),
            **_needles(llm, questions, spec, events),
        },
        "calls": {
            "calls": spec.calls,
            "context": spec.call_context,
            "chat_template": _has_template(tokenizer),
            **_calls(llm, asked, events),
        },
    }


def _reference(
    windows: list[list[int]],
    likeliest: list[tuple[list[int], list[float]]],
    prompts: list[list[int]],
    answers: list[list[int]],
) -> reference.Reference:
    return reference.Reference(
        windows=np.array(windows, dtype=np.int32),
        tokens=np.array([tokens for tokens, _ in likeliest], dtype=np.int32),
        logprobs=np.array([logprobs for _, logprobs in likeliest], dtype=np.float32),
        prompts=np.array(prompts, dtype=np.int32),
        answers=np.array(answers, dtype=np.int32),
    )


def _divergence(base: reference.Reference, entries: Iterable[Any]) -> dict[str, Any]:
    cache: list[list[float]] = []
    top: list[int] = []
    for entry, tokens in zip(entries, base.tokens.tolist(), strict=True):
        cache.append(divergence.listed(entry, tokens))
        top.append(divergence.likeliest(entry, 1)[0][0])
    return divergence.summarize(
        base.logprobs, base.tokens, np.array(cache, dtype=np.float32), top, windows=len(base.windows)
    )


def _next_tokens(llm: Any, windows: list[list[int]], count: int, events: Events) -> Iterator[Any]:
    """vLLM's listing of the `count` likeliest next tokens of every scored position; one window's are held at a time."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=count, detokenize=False)
    for index, window in enumerate(windows):
        events.emit("phase", phase="quality", detail="next tokens", step=index + 1, steps=len(windows))
        scored = llm.generate([{"prompt_token_ids": window}], params, use_tqdm=False)[0].prompt_logprobs
        if len(scored) != len(window):
            raise text.TextError(f"vLLM scored {len(scored)} of {len(window)} prompt tokens")
        yield from scored[1:]  # nothing predicts the first


def _answers(llm: Any, prompts: list[list[int]], spec: QualitySpec, events: Events) -> list[list[int]]:
    events.emit("phase", phase="quality", detail="greedy answers")
    return [list(output.token_ids) for output in _generate(llm, prompts, spec.new_tokens, ignore_eos=True)]


def _needles(llm: Any, questions: Sequence[needle.Question], spec: QualitySpec, events: Events) -> dict[str, Any]:
    answers: list[str] = []
    for index, length in enumerate(spec.needle_lengths):
        events.emit(
            "phase",
            phase="quality",
            detail=f"needles in {length} tokens",
            step=index + 1,
            steps=len(spec.needle_lengths),
        )
        prompts = [question.prompt for question in questions if question.length == length]
        answers.extend(output.text for output in _generate(llm, prompts, spec.needle_answer_tokens, ignore_eos=False))
    return needle.summarize(questions, answers)


def _calls(llm: Any, asked: Sequence[calls.Call], events: Events) -> dict[str, Any]:
    events.emit("phase", phase="quality", detail="tool calls")
    outputs = _generate(llm, [call.prompt for call in asked], calls.ANSWER_TOKENS, ignore_eos=False)
    return calls.summarize(asked, [output.text for output in outputs])


def _generate(llm: Any, prompts: list[list[int]], tokens: int, *, ignore_eos: bool) -> list[Any]:
    """The greedy completions of `prompts`, at most `tokens` long."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=ignore_eos, detokenize=not ignore_eos)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


def _has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _codec(tokenizer: Any, cue: str) -> needle.Codec:
    """Questions go through the tokenizer's chat template; without one they end with `cue`, where the answer begins."""

    def chat(message: str) -> list[int]:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            tokenize=False,
            add_generation_prompt=True,
            # The short answer would be all thoughts; templates without thinking leave this aside.
            enable_thinking=False,
        )
        return list(tokenizer.encode(rendered, add_special_tokens=False))

    def plain(message: str) -> list[int]:
        return list(tokenizer.encode(message + cue))

    return needle.Codec(decode=tokenizer.decode, render=chat if _has_template(tokenizer) else plain)
