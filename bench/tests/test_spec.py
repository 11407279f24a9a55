import copy

import pytest

from kivi_bench.spec import Shape, SpecError, parse_spec

GOOD = {
    "cache": "k4v4",
    "cache_dtype": "kivi_k4v4",
    "engine": {"model": "m"},
    "context": 1024,
    "log": "l",
    "result": "r",
    "suites": ["capacity", "throughput", "perplexity", "quality"],
    "throughput": {"shapes": [{"batch": 4, "context": 1024, "new": 32}], "repeats": 3, "seed": 0},
    "perplexity": {"text": "t", "window": 1024, "max_windows": 16},
    "quality": {
        "text": "t",
        "seed": 0,
        "window": 512,
        "windows": 4,
        "top_logprobs": 64,
        "prompts": 8,
        "prompt_tokens": 256,
        "new_tokens": 64,
        "needle_lengths": [512, 1024],
        "needle_depths": [0, 50, 100],
        "needle_trials": 4,
        "needle_answer_tokens": 24,
        "calls": 8,
        "call_context": 256,
    },
    "reference": "f",
}


def changed(*path_and_value: object) -> dict:
    spec = copy.deepcopy(GOOD)
    *path, key, value = path_and_value
    place = spec
    for part in path:
        place = place[part]  # type: ignore[index,assignment]
    if value is None:
        del place[key]  # type: ignore[arg-type]
    else:
        place[key] = value  # type: ignore[index]
    return spec


def test_reads_a_whole_spec() -> None:
    spec = parse_spec(GOOD)
    assert spec.throughput is not None
    assert spec.throughput.shapes == (Shape(4, 1024, 32),)
    assert spec.throughput.shapes[0].name == "4x1024+32"
    assert spec.quality is not None
    assert spec.quality.needle_depths == (0, 50, 100)
    assert spec.reference == "f"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "spec must be a JSON object, found list"),
        (changed("cache_dtype", None), "key 'cache_dtype' is missing"),
        (changed("cach", "x"), "unknown key 'cach'"),
        (changed("suites", ["speed"]), "'speed' is none of capacity, fill, throughput, perplexity, quality"),
        (changed("perplexity", None), "the key 'perplexity' is missing"),
        (changed("context", 0), "spec.context must be a whole number of at least 1, found 0"),
        (changed("context", True), "found True"),
        (changed("throughput", "shapes", []), "at least one shape"),
        (changed("throughput", "shapes", 0, "new", 1.5), r"throughput.shapes\[0\].new must be a whole number"),
        (changed("perplexity", "window", 1), "at least 2 tokens"),
        (changed("throughput", "repeats", "3"), "throughput.repeats"),
        (changed("quality", None), "the key 'quality' is missing"),
        (changed("reference", None), "the key 'reference' is missing"),
        (changed("quality", "needles", 3), "quality: unknown key 'needles'"),
        (changed("quality", "needle_lengths", []), "quality.needle_lengths must be a list"),
        (changed("quality", "needle_lengths", [512, 0]), r"quality.needle_lengths\[1\] must be a whole number"),
        (changed("quality", "needle_depths", [101]), "from 0 to 100, found 101"),
        (changed("quality", "new_tokens", 0), "quality.new_tokens must be a whole number"),
        (changed("quality", "window", 1), "at least 2 tokens"),
    ],
)
def test_names_the_key_that_is_wrong(spec: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(spec)
