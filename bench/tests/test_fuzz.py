"""Parsers of what others wrote: any input gives a result or the parser's own error, never another exception."""

import io
import json
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kivi_bench import calls, capacity, reference, refusal
from kivi_bench.spec import CellSpec, SpecError, load_spec, parse_spec

settings.register_profile("fuzz", deadline=None, max_examples=300, derandomize=True)
fuzz = settings.get_profile("fuzz")

SHAPE = {"batch": 2, "context": 128, "new": 8}
QUALITY = {
    "text": "t", "seed": 0, "window": 128, "windows": 2, "top_logprobs": 8, "prompts": 1, "prompt_tokens": 8,
    "new_tokens": 8, "needle_lengths": [128], "needle_depths": [50], "needle_trials": 1, "needle_answer_tokens": 8,
    "calls": 1, "call_context": 8,
}  # fmt: skip
SPEC = {
    "cache": "k4v4", "cache_dtype": "kivi_k4v4", "engine": {"model": "m", "additional_config": {}}, "context": 128,
    "log": "log", "result": "r", "suites": ["capacity", "throughput", "perplexity", "quality"], "reference": "ref",
    "throughput": {"shapes": [SHAPE], "repeats": 2, "seed": 0}, "vllm_args": ["--seed", "1"],
    "perplexity": {"text": "t", "window": 128, "max_windows": 2}, "quality": QUALITY,
}  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ['{"name": ', "KIVI_REPORT ", "{", "[", '"rank"', ":", "1", "}", "\n", "Error: x", "[" * 20000, "NaN"]
    )
).map("".join)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in list(items) for place in ((value, key), *places(inner))]


@st.composite
def spoiled(draw: st.DrawFn, document: Any) -> Any:
    """The document with one or two of its values replaced or, in objects, taken out."""
    copy = deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        holder, key = draw(st.sampled_from(places(copy)))
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(values)
    return copy


def test_the_whole_specification_is_one() -> None:
    assert parse_spec(SPEC).suites == tuple(SPEC["suites"])


@fuzz
@given(values | spoiled(SPEC))
def test_a_specification_is_read_or_refused(raw: Any) -> None:
    try:
        spec = parse_spec(raw)
    except SpecError:
        return
    assert isinstance(spec, CellSpec)
    assert isinstance(spec.engine, dict)
    assert all(isinstance(word, str) for word in (spec.cache, spec.log, spec.result, *spec.suites, *spec.vllm_args))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"null"])
def test_a_file_of_no_specification_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_spec(path)


@fuzz
@given(texts | values.map(lambda value: f"(Worker pid=1) KIVI_REPORT {json.dumps(value)}"))
def test_a_log_is_searched_for_reports_and_reasons(log: str) -> None:
    assert all(isinstance(report, dict) for report in capacity.reports(log))
    status, reason = refusal.classify(log)
    assert status in ("unsupported", "failed")
    assert reason


@fuzz
@given(texts | spoiled({"name": "get_weather", "arguments": {"city": "Lima", "days": 9}}).map(json.dumps))
def test_an_answer_of_a_model_is_a_call_or_none(answer: str) -> None:
    asked = [calls.Call(tool, {}, []) for tool in calls.TOOLS]
    shares = calls.summarize(asked, [answer] * len(asked))
    assert all(0 <= share <= 1 for share in shares.values())


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def single(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


WHOLE = archive(windows=np.zeros((1, 2)), prompts=np.zeros((1, 2)))
PICKLED = [single(np.array([print], dtype=object)), archive(windows=np.array([print], dtype=object))]


@fuzz
@given(
    st.binary(max_size=64)
    | st.sampled_from([*PICKLED, single(np.zeros(3))])
    | st.tuples(st.integers(0, len(WHOLE)), st.binary(max_size=8)).map(lambda cut: WHOLE[: cut[0]] + cut[1])
)
def test_a_file_of_no_reference_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.npz"
        path.write_bytes(content)
        with pytest.raises(reference.ReferenceMismatchError):
            reference.read(path, [], [])
