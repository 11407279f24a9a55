"""What a cell is asked to do: the JSON document that ``kivi bench`` writes for it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUITES = ("capacity", "throughput", "perplexity")


class SpecError(ValueError):
    """The cell's specification does not say what to run; the message names the key."""


@dataclass(frozen=True)
class Shape:
    """One throughput load: `batch` sequences of `context` prompt tokens, `new` tokens generated for each."""

    batch: int
    context: int
    new: int

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.context}+{self.new}"


@dataclass(frozen=True)
class ThroughputSpec:
    """Loads to time; every shape is timed `repeats` times after one warm-up that is kept apart."""

    shapes: tuple[Shape, ...]
    repeats: int
    seed: int


@dataclass(frozen=True)
class PerplexitySpec:
    """Text to score in windows of `window` tokens, at most `max_windows` of them."""

    text: str
    window: int
    max_windows: int


@dataclass(frozen=True)
class CellSpec:
    """One cell: one cache, one engine, some suites.

    `cache_dtype` is vLLM's own ``kv_cache_dtype``. `engine` holds further keyword arguments of ``vllm.LLM``, passed on
    as they are (model, dtype, max_model_len, kv_cache_memory_bytes, additional_config, ...). `context` is the length
    in tokens at which concurrency is counted.
    """

    cache: str
    cache_dtype: str
    engine: dict[str, Any]
    context: int
    log: str
    result: str
    suites: tuple[str, ...]
    throughput: ThroughputSpec | None = None
    perplexity: PerplexitySpec | None = None


def load_spec(path: Path) -> CellSpec:
    """Reads and checks a specification.

    Raises:
        SpecError: a key is missing, unknown, or holds a value that cannot be run.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from error
    return parse_spec(raw)


def parse_spec(raw: Any) -> CellSpec:
    """Turns the JSON document into a :class:`CellSpec`; raises :class:`SpecError` with the key that is wrong."""
    values = _keys(raw, CellSpec, "spec")
    throughput, perplexity = values.get("throughput"), values.get("perplexity")
    if throughput is not None:
        load = _keys(throughput, ThroughputSpec, "throughput")
        if not isinstance(load["shapes"], list) or not load["shapes"]:
            raise SpecError("throughput.shapes must be a list with at least one shape")
        load["shapes"] = tuple(
            Shape(**_positive(_keys(shape, Shape, f"throughput.shapes[{index}]"), f"throughput.shapes[{index}]"))
            for index, shape in enumerate(load["shapes"])
        )
        _positive({"repeats": load["repeats"]}, "throughput")
        values["throughput"] = ThroughputSpec(**load)
    if perplexity is not None:
        text = _keys(perplexity, PerplexitySpec, "perplexity")
        _positive({"window": text["window"], "max_windows": text["max_windows"]}, "perplexity")
        if text["window"] < 2:
            raise SpecError("perplexity.window must be at least 2 tokens: the first token of a window is never scored")
        values["perplexity"] = PerplexitySpec(**text)
    values["suites"] = tuple(values["suites"])
    for suite in values["suites"]:
        if suite not in SUITES:
            raise SpecError(f"suites: {suite!r} is none of {', '.join(SUITES)}")
        if suite != "capacity" and values.get(suite) is None:
            raise SpecError(f"suites: {suite} is asked for, but the key {suite!r} is missing")
    _positive({"context": values["context"]}, "spec")
    return CellSpec(**values)


def _keys(raw: Any, kind: type, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise SpecError(f"{where} must be a JSON object, found {type(raw).__name__}")
    fields = dataclasses.fields(kind)
    known = {field.name for field in fields}
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if unknown := sorted(set(raw) - known):
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if missing := sorted(needed - set(raw)):
        raise SpecError(f"{where}: key {missing[0]!r} is missing")
    return dict(raw)


def _positive(values: dict[str, Any], where: str) -> dict[str, Any]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{where}.{key} must be a whole number of at least 1, found {value!r}")
    return values
