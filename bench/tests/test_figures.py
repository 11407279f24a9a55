import math
from types import SimpleNamespace

import pytest

from kivi_bench import capacity, perplexity, refusal, throughput
from kivi_bench.spec import Shape


def test_decode_counts_only_the_decode_steps() -> None:
    prefill, decode = throughput.rates(Shape(batch=4, context=1000, new=32), prefill_seconds=2.0, total_seconds=4.0)
    assert prefill == 2000
    assert decode == 64


def test_no_decode_time_gives_no_rate_instead_of_a_wrong_one() -> None:
    assert throughput.rates(Shape(1, 10, 1), 1.0, 1.0)[1] is None
    result = throughput.summarize(Shape(1, 10, 1), 0.1, [(2.0, 1.0)], tokens_held=100)
    assert result["decode_tokens_per_second"] is None
    assert result["prefill_tokens_per_second"] == 5


def test_one_disturbed_sample_does_not_move_the_rates() -> None:
    result = throughput.summarize(Shape(1, 10, 10), 9.0, [(2.0, 4.0), (9.0, 4.0), (2.0, 4.0)], tokens_held=20)
    assert result["prefill_tokens_per_second"] == 5
    assert result["decode_tokens_per_second"] == 5
    assert len(result["samples"]) == 3
    assert result["warmup_seconds"] == 9.0
    assert not result["fits"]


def test_prompts_are_reproducible_and_avoid_special_tokens() -> None:
    shape = Shape(3, 500, 1)
    prompts = throughput.random_prompts(shape, vocabulary=40, seed=7, avoid={0, 1, 2})
    assert prompts == throughput.random_prompts(shape, 40, 7, {0, 1, 2})
    assert prompts != throughput.random_prompts(shape, 40, 8, {0, 1, 2})
    assert [len(prompt) for prompt in prompts] == [500, 500, 500]
    assert {token for prompt in prompts for token in prompt} == set(range(3, 40))


def test_prefill_and_total_alternate_after_one_warm_up() -> None:
    asked: list[int] = []
    throughput.measure(Shape(1, 4, 32), [[1, 2, 3, 4]], 2, lambda _, tokens: asked.append(tokens))
    assert asked == [5, 1, 33, 1, 33]


def test_short_shapes_are_sampled_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(seconds: float, repeats: int = 2) -> int:
        now = iter(range(1000))
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))  # each call takes a second
        return len(throughput.measure(Shape(1, 4, 8), [[1]], repeats, lambda *_: None, seconds)[1])

    assert [samples(seconds) for seconds in (0, 4, 4.5, 7, 1000)] == [2, 2, 3, 4, throughput.MOST_SAMPLES]
    assert samples(0, repeats=20) == 20


def test_windows_tile_the_text_and_leave_the_rest() -> None:
    assert perplexity.windows(range(10), 4, limit=9) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert perplexity.windows(range(10), 4, limit=1) == [[0, 1, 2, 3]]
    assert perplexity.windows(range(7), 4, limit=9, prefix=[99]) == [[99, 0, 1, 2], [99, 3, 4, 5]]
    with pytest.raises(perplexity.TextError, match="3 tokens, fewer than one window of 4"):
        perplexity.windows(range(3), 4, limit=1)


def logprob(value: float) -> SimpleNamespace:
    return SimpleNamespace(logprob=value)


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary() -> None:
    vocabulary, texts = 50, [[1, 2, 3], [4, 5, 6]]
    even = [None, *({token: logprob(-math.log(vocabulary)) for token in range(vocabulary)} for _ in range(2))]
    result = perplexity.score("text", texts, lambda _: even, lambda *_: None)
    assert result["perplexity"] == pytest.approx(vocabulary)
    assert result["scored_tokens"] == 4
    assert len(result["window_nll"]) == 2


def test_a_broken_cache_is_an_error_and_not_a_perplexity() -> None:
    with pytest.raises(perplexity.TextError, match="not finite"):
        perplexity.window_nll([1, 2], [None, {2: logprob(float("nan"))}])
    with pytest.raises(perplexity.TextError, match="scored 1 of 2"):
        perplexity.window_nll([1, 2], [None])


def layer(name: str, spec: str, page_bytes: int, block_size: int) -> dict:
    return {"layer": name, "spec": spec, "page_bytes": page_bytes, "block_size": block_size}


def test_capacity_counts_pages_and_staging() -> None:
    layers = [layer(str(index), "KiviFullSpec", 1280, 128) for index in range(3)]
    facts = {"num_blocks": 10, "cache_bytes": 38400, "layers": layers}
    found = capacity.capacity(1280, 128, 200, facts, {"staging_bytes": 1000, "staging_slots": 4})
    assert found["bytes_per_token"] == 30
    assert found["total_bytes"] == 39400
    assert found["concurrency"] == 5  # 200 tokens take two blocks of 128
    assert capacity.capacity(1280, 128, 200, facts, None)["staging_bytes"] == 0


def test_state_of_fixed_size_is_not_bytes_per_token() -> None:
    mixed = [layer("0", "FullAttentionSpec", 256, 16), layer("1", "MambaSpec", 100_000, 16)]
    assert capacity.bytes_per_token(mixed) == 16


def test_reports_are_read_from_a_mixed_log() -> None:
    log = "\n".join(
        [
            "INFO starting",
            '(Worker pid=7) INFO 11-23 [kivi.py:1] KIVI_REPORT {"rank": 1, "preset": "k4v4"}',
            '(Worker pid=6) INFO 11-23 [kivi.py:1] KIVI_REPORT {"rank": 0, "preset": "k4v2"} trailing words',
            'KIVI_REPORT {"rank": 2, "pre',
        ]
    )
    assert [report["preset"] for report in capacity.reports(log)] == ["k4v2", "k4v4"]
    assert capacity.reports("nothing") == []


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            "(Worker) ERROR x.py:1] NotImplementedError: FP8 KV cache on CPU requires x86 with AVX-512 or AMX.\n"
            "RuntimeError: Engine core initialization failed.",
            ("unsupported", "FP8 KV cache on CPU requires x86 with AVX-512 or AMX."),
        ),
        (
            "vllm_kivi.config.ConfigError: KIVI refuses: whisper is an encoder-decoder model",
            ("unsupported", "KIVI refuses: whisper is an encoder-decoder model"),
        ),
        (
            "pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
            "  Value error, KIVI refuses: value_group 24 [type=value_error, input_value=ArgsKwargs(()), input_type=A]",
            ("unsupported", "KIVI refuses: value_group 24"),
        ),
        (
            "ValueError: No valid attention backend found for cuda with head_size 96",
            ("unsupported", "No valid attention backend found for cuda with head_size 96"),
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nRuntimeError: Engine core failed",
            ("failed", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ),
        ("INFO all is well", ("failed", "the engine ended without an error message")),
    ],
)
def test_a_cache_that_is_not_there_is_told_from_one_that_broke(log: str, expected: tuple[str, str]) -> None:
    assert refusal.classify(log) == expected
