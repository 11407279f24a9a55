import pytest

from kivi_bench.arguments import ArgumentsError, keywords


def test_words_of_vllms_server_become_arguments_of_an_engine() -> None:
    """By the installed vLLM's own parser; what was not said keeps its default there."""
    words = ["--pipeline-parallel-size", "2", "--distributed_executor_backend=ray", "--no-async-scheduling"]
    assert keywords(words, ["model"]) == {
        "pipeline_parallel_size": 2,
        "distributed_executor_backend": "ray",
        "async_scheduling": False,
    }
    assert keywords([], ["model"]) == {}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--pipeline-paralel-size", "2"], "unrecognized arguments: --pipeline-paralel-size"),
        (["--pipeline-parallel-size", "two"], "argument --pipeline-parallel-size.*invalid"),
        (["--max-model-len", "128"], "max_model_len is set by kivi bench itself"),
    ],
)
def test_what_vllm_does_not_take_is_refused_in_its_own_words(words: list[str], problem: str) -> None:
    with pytest.raises(ArgumentsError, match=problem):
        keywords(words, ["max_model_len"])
