"""Tool calls: whether a model still writes the JSON that a program can read, after a text that fills its cache."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
import numpy as np

from .text import TextError

# What a model that only continues text needs: the place where the call begins.
CUE = "\n\nThe JSON object:\n"

# Greedy answers: the longest call of a verbose tokenizer is well below that.
ANSWER_TOKENS = 96

_CITIES = ("Lisbon", "Nairobi", "Osaka", "Quito", "Tromso")
_PEOPLE = ("Amara", "Bjorn", "Chen", "Dalia", "Elif")
_ITEMS = ("lamp", "kettle", "notebook", "rain jacket", "bicycle")


@dataclass(frozen=True)
class Tool:
    """A function that a model may call: the JSON schema of its arguments, and a request with the arguments it means."""

    name: str
    properties: dict[str, dict[str, Any]]
    ask: Callable[[np.random.Generator], tuple[str, dict[str, Any]]]

    @property
    def schema(self) -> dict[str, Any]:
        """Of the whole call."""
        arguments = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.properties),
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {"name": {"const": self.name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


def _one(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _weather(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    city, days = _one(rng, _CITIES), int(rng.integers(1, 8))
    return f"What will the weather be in {city} over the next {days} days?", {"city": city, "days": days}


def _payment(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    person, amount = _one(rng, _PEOPLE), int(rng.integers(10, 1000))
    return f"Send {amount} euros to {person}.", {"recipient": person, "amount": amount}


def _order(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    item, gift = _one(rng, _ITEMS), bool(rng.integers(2))
    wrapped = "wrapped as a gift" if gift else "not wrapped as a gift"
    return f"Order one {item}, {wrapped}.", {"item": item, "gift": gift}


def _meeting(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    people = [_PEOPLE[index] for index in rng.permutation(len(_PEOPLE))[:2]]
    hour = int(rng.integers(8, 18))
    return f"Set up a meeting with {people[0]} and {people[1]} at {hour} o'clock.", {"people": people, "hour": hour}


_TEXT, _WHOLE = {"type": "string"}, {"type": "integer"}
_TEXTS = {"type": "array", "items": _TEXT}

TOOLS = (
    Tool("get_weather", {"city": _TEXT, "days": _WHOLE}, _weather),
    Tool("send_money", {"recipient": _TEXT, "amount": {"type": "number"}}, _payment),
    Tool("order_item", {"item": _TEXT, "gift": {"type": "boolean"}}, _order),
    Tool("set_meeting", {"people": _TEXTS, "hour": _WHOLE}, _meeting),
)


# One shown beforehand, so that a small model knows the form; of none of the requests.
_EXAMPLE = (
    "Will it rain in Lima in the next 9 days?",
    {"name": "get_weather", "arguments": {"city": "Lima", "days": 9}},
)


@dataclass(frozen=True)
class Call:
    """One prompt, in tokens, and the call that it asks for."""

    tool: Tool
    arguments: dict[str, Any]
    prompt: list[int]


def calls(
    tokens: Sequence[int],
    count: int,
    context: int,
    seed: int,
    decode: Callable[[Sequence[int]], str],
    render: Callable[[str], list[int]],
) -> list[Call]:
    """`count` requests, each after `context` tokens of another place of the text; the tools in turn.

    Raises:
        TextError: the text is shorter than that.
    """
    if len(tokens) < context:
        raise TextError(
            f"the text has {len(tokens)} tokens, fewer than the {context} before a tool call; use a longer text"
        )
    rng = np.random.default_rng(seed)
    listed = "\n".join(json.dumps({"name": tool.name, "parameters": tool.properties}) for tool in TOOLS)
    made = []
    for index in range(count):
        tool = TOOLS[index % len(TOOLS)]
        start = int(rng.integers(len(tokens) - context + 1))
        request, arguments = tool.ask(rng)
        message = (
            f"Notes, which have nothing to do with the request:\n{decode(tokens[start : start + context])}\n\n"
            f"These functions can be called:\n{listed}\n\n"
            "Answer a request with nothing but a JSON object that names the function and its arguments.\n"
            f"Request: {_EXAMPLE[0]}\n{json.dumps(_EXAMPLE[1])}\nRequest: {request}"
        )
        made.append(Call(tool, arguments, render(message)))
    return made


def first_object(answer: str) -> Any:
    """The first JSON object of an answer, whatever stands around it; None where there is none that can be read."""
    start = answer.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(answer[start:])
    except (ValueError, RecursionError):
        return None
    return value


def is_valid(tool: Tool, value: Any) -> bool:
    """Whether it is a call of this tool by its schema, whatever the arguments are."""
    return value is not None and jsonschema.Draft202012Validator(tool.schema).is_valid(value)


def summarize(asked: Sequence[Call], answers: Sequence[str]) -> dict[str, Any]:
    """Shares of the answers: JSON at all, a call by the schema, and the very call that was asked for."""
    values = [first_object(answer) for answer in answers]
    pairs = list(zip(asked, values, strict=True))
    return {
        "json": sum(value is not None for value in values) / len(values),
        "valid": sum(is_valid(call.tool, value) for call, value in pairs) / len(values),
        "correct": sum(is_valid(call.tool, value) and value["arguments"] == call.arguments for call, value in pairs)
        / len(values),
    }
