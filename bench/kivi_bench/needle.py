"""Needle in a haystack: a pass key hidden at a depth of a long text, and asked for at its end.

After Mohtashami and Jaggi (2023, arXiv:2305.16300), who hide the key, and Kamradt's grid of depths and lengths.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .text import TextError

_TASK = "A pass key is hidden in the text below. Find it and remember it."
_QUESTION = "What is the pass key in the text above? Answer with the number only."
# What a model that only continues text needs: the beginning of the answer.
CUE = "\n\nThe pass key is"

_SENTENCE_END = re.compile(r"[.!?]\s+")


@dataclass(frozen=True)
class Codec:
    """The model's tokenizer: `decode` gives text for tokens, `render` the whole prompt, in tokens, for a message."""

    decode: Callable[[Sequence[int]], str]
    render: Callable[[str], list[int]]


@dataclass(frozen=True)
class Question:
    """One prompt of the grid: `length` in tokens that it may have, `depth` in percent, `key` the number to find."""

    length: int
    depth: int
    key: str
    prompt: list[int]


def insert(haystack: str, sentence: str, depth: int) -> str:
    """`sentence` put into `haystack` at the end of a sentence, the one nearest to `depth` percent of the characters."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(haystack)), len(haystack)]
    place = min(ends, key=lambda end: abs(end - len(haystack) * depth / 100))
    parts = (haystack[:place].strip(), sentence, haystack[place:].strip())
    return " ".join(part for part in parts if part)


def build(haystack: Sequence[int], length: int, depth: int, key: str, codec: Codec) -> Question:
    """A prompt of at most `length` tokens whose text is as much of `haystack` as there is room for.

    Raises:
        TextError: there is no room for any.
    """
    sentence = f"The pass key is {key}. Remember it: {key} is the pass key."

    def prompt(tokens: Sequence[int]) -> list[int]:
        text = insert(codec.decode(tokens), sentence, depth)
        return codec.render(f"{_TASK}\n\n{text}\n\n{_QUESTION}")

    bare = len(prompt([]))
    room = length - bare
    # Text that was cut up and joined again may take a few tokens more than its parts did.
    while room > 0:
        made = prompt(haystack[:room])
        if len(made) <= length:
            return Question(length, depth, key, made)
        room -= len(made) - length
    raise TextError(f"a needle prompt of {length} tokens has no room for text: its question takes {bare}")


def questions(
    tokens: Sequence[int], lengths: Sequence[int], depths: Sequence[int], trials: int, seed: int, codec: Codec
) -> list[Question]:
    """The grid, `trials` questions for each length and depth, each with its own key and place in the text.

    Raises:
        TextError: the text is shorter than a prompt.
    """
    if len(tokens) < max(lengths):
        raise TextError(
            f"the text has {len(tokens)} tokens, fewer than a needle prompt of {max(lengths)}; use a longer text"
        )
    rng = np.random.default_rng(seed)
    grid = []
    for length in lengths:
        for depth in depths:
            for _ in range(trials):
                start = int(rng.integers(len(tokens) - length + 1))
                key = str(rng.integers(10_000, 100_000))
                grid.append(build(tokens[start : start + length], length, depth, key, codec))
    return grid


def is_answered(answer: str, key: str) -> bool:
    """Whether the first number of `answer` is the key; 12,345 is 12345."""
    number = re.search(r"\d+", re.sub(r"(?<=\d),(?=\d)", "", answer))
    return number is not None and number[0] == key


def summarize(asked: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """The share of keys found, in all and in each cell of the grid."""
    grid: dict[tuple[int, int], list[bool]] = {}
    for question, answer in zip(asked, answers, strict=True):
        grid.setdefault((question.length, question.depth), []).append(is_answered(answer, question.key))
    found = [right for cell in grid.values() for right in cell]
    return {
        "accuracy": sum(found) / len(found),
        "grid": [
            {"length": length, "depth": depth, "accuracy": sum(cell) / len(cell)}
            for (length, depth), cell in grid.items()
        ],
    }
