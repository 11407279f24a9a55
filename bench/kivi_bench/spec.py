"""What a cell is asked to do: the JSON document that ``kivi bench`` writes for it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Those that need no sizes of their own.
SIZELESS = ("capacity", "fill")
SUITES = (*SIZELESS, "throughput", "perplexity", "quality", "lm-eval")

# The cache that others are compared with; its cell runs first.
BASELINE = "bf16"


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
class QualitySpec:
    """What the cache's answers are compared on, all of it taken from `text`.

    Attributes:
        window, windows: tokens of a scored window, and how many there are at most.
        top_logprobs: tokens of each next-token distribution that the reference keeps.
        prompts, prompt_tokens, new_tokens: greedy answers: how many, to prompts of how many tokens, of how many tokens.
        needle_lengths: tokens of a needle prompt; at each, `needle_trials` questions for every depth.
        needle_depths: places of the needle in percent of the text.
        needle_answer_tokens: most tokens of an answer.
        calls: tool calls that are asked for, each after `call_context` tokens of text.
    """

    text: str
    seed: int
    window: int
    windows: int
    top_logprobs: int
    prompts: int
    prompt_tokens: int
    new_tokens: int
    needle_lengths: tuple[int, ...]
    needle_depths: tuple[int, ...]
    needle_trials: int
    needle_answer_tokens: int
    calls: int
    call_context: int


@dataclass(frozen=True)
class LmEvalSpec:
    """Tasks of lm-eval, by name or path of a YAML file: `limit` documents of each at most, `window` tokens at once."""

    tasks: tuple[str, ...]
    window: int
    limit: int | None = None


@dataclass(frozen=True)
class CellSpec:
    """One cell: one cache, one engine, some suites.

    `cache_dtype` is vLLM's own ``kv_cache_dtype``. `engine` holds further keyword arguments of ``vllm.LLM``, passed on
    as they are (model, dtype, max_model_len, kv_cache_memory_bytes, additional_config, ...). `context` is the length
    in tokens at which concurrency is counted. `vllm_args` are further words for vLLM as on its server's command line.
    `reference` is the file that the baseline's cell writes for the quality
    suite and the others read.
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
    quality: QualitySpec | None = None
    lm_eval: LmEvalSpec | None = None
    reference: str | None = None
    vllm_args: tuple[str, ...] = ()


def load_spec(path: Path) -> CellSpec:
    """Reads and checks a specification.

    Raises:
        SpecError: a key is missing, unknown, or holds a value that cannot be run.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: {error}") from error
    return parse_spec(raw)


def parse_spec(raw: Any) -> CellSpec:
    """Turns the JSON document into a :class:`CellSpec`; raises :class:`SpecError` with the key that is wrong."""
    values = _typed(_keys(raw, CellSpec, "spec"), CellSpec, "spec")
    throughput, perplexity = values.get("throughput"), values.get("perplexity")
    if throughput is not None:
        load = _typed(_keys(throughput, ThroughputSpec, "throughput"), ThroughputSpec, "throughput")
        if not isinstance(load["shapes"], list) or not load["shapes"]:
            raise SpecError("throughput.shapes must be a list with at least one shape")
        load["shapes"] = tuple(
            Shape(**_positive(_keys(shape, Shape, f"throughput.shapes[{index}]"), f"throughput.shapes[{index}]"))
            for index, shape in enumerate(load["shapes"])
        )
        _positive({"repeats": load["repeats"]}, "throughput")
        values["throughput"] = ThroughputSpec(**load)
    if perplexity is not None:
        text = _typed(_keys(perplexity, PerplexitySpec, "perplexity"), PerplexitySpec, "perplexity")
        _positive({"window": text["window"], "max_windows": text["max_windows"]}, "perplexity")
        if text["window"] < 2:
            raise SpecError("perplexity.window must be at least 2 tokens: the first token of a window is never scored")
        values["perplexity"] = PerplexitySpec(**text)
    if values.get("quality") is not None:
        values["quality"] = _quality(values["quality"])
    if values.get("lm_eval") is not None:
        values["lm_eval"] = _lm_eval(values["lm_eval"])
    values["suites"] = tuple(values["suites"])
    values["vllm_args"] = tuple(values.get("vllm_args", ()))
    for suite in values["suites"]:
        if suite not in SUITES:
            raise SpecError(f"suites: {suite!r} is none of {', '.join(SUITES)}")
        key = suite.replace("-", "_")
        if suite not in SIZELESS and values.get(key) is None:
            raise SpecError(f"suites: {suite} is asked for, but the key {key!r} is missing")
    if "quality" in values["suites"] and not values.get("reference"):
        raise SpecError("suites: quality is asked for, but the key 'reference' is missing")
    _positive({"context": values["context"]}, "spec")
    return CellSpec(**values)


def _quality(raw: Any) -> QualitySpec:
    values = _typed(_keys(raw, QualitySpec, "quality"), QualitySpec, "quality")
    lists = ("needle_lengths", "needle_depths")
    for name in lists:
        if not isinstance(values[name], list) or not values[name]:
            raise SpecError(f"quality.{name} must be a list with at least one number")
    _positive({key: value for key, value in values.items() if key not in ("text", "seed", *lists)}, "quality")
    _positive({f"needle_lengths[{i}]": value for i, value in enumerate(values["needle_lengths"])}, "quality")
    for depth in values["needle_depths"]:
        if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= 100:
            raise SpecError(f"quality.needle_depths must be whole percents from 0 to 100, found {depth!r}")
    if values["window"] < 2:
        raise SpecError("quality.window must be at least 2 tokens: the first token of a window is never scored")
    return QualitySpec(**{**values, **{name: tuple(values[name]) for name in lists}})


def _lm_eval(raw: Any) -> LmEvalSpec:
    values = _keys(raw, LmEvalSpec, "lm_eval")
    if not isinstance(values["tasks"], list) or not values["tasks"]:
        raise SpecError("lm_eval.tasks must be a list with at least one task")
    _positive({key: value for key, value in values.items() if key != "tasks"}, "lm_eval")
    if values["window"] < 3:
        raise SpecError("lm_eval.window must be at least 3 tokens")
    return LmEvalSpec(**{**values, "tasks": tuple(values["tasks"])})


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


_KINDS: dict[Any, tuple[type, str]] = {
    str: (str, "text"),
    str | None: (str, "text"),
    int: (int, "a whole number"),
    dict[str, Any]: (dict, "an object"),
}


def _typed(values: dict[str, Any], kind: type, where: str) -> dict[str, Any]:
    """The values, whose types are the ones that `kind` gives its fields; lists of words are checked word by word."""
    for field in dataclasses.fields(kind):
        value = values.get(field.name)
        if field.type == tuple[str, ...]:
            words = value if field.name in values else []
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise SpecError(f"{where}.{field.name} must be a list of words, found {value!r}")
        elif field.type in _KINDS and not (value is None and field.default is None):
            wanted, name = _KINDS[field.type]
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise SpecError(f"{where}.{field.name} must be {name}, found {value!r}")
    return values


def _positive(values: dict[str, Any], where: str) -> dict[str, Any]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{where}.{key} must be a whole number of at least 1, found {value!r}")
    return values
