"""What a trace of an engine's steps is read as."""

from __future__ import annotations

from typing import Any

import pytest

from kivi_bench.steps import trace

LAYERS = 2


def events(steps: int, closing: int) -> list[dict[str, Any]]:
    """Steps of two layers: a product, a store (longer in one step), attention that begins before the store ends."""
    found, now = [], 0.0

    def add(name: str, at: float, duration: float) -> None:
        found.append({"ph": "X", "cat": "kernel", "name": name, "ts": at, "dur": duration})

    for step in range(steps):
        for _ in range(LAYERS):
            add("void gemm<float>", now, 50.0)
            store = 40.0 if step == closing else 10.0
            add("_append_kernel", now + 50, store)
            add("kivi_decode", now + 55, store + 20)
            now += 55 + store + 20 + 5  # five microseconds of nothing
    return [*found, {"ph": "X", "cat": "cpu_op", "name": "kivi_decode", "ts": 0, "dur": 9}, {"ph": "M", "name": "x"}]


def test_kernels_of_a_step() -> None:
    found = trace.kernels(events(4, closing=9))
    assert len(found) == 4 * LAYERS * 3
    assert found[0] == trace.Kernel("gemm<float>", 0.0, 50.0)
    assert trace.busy(found) == 4 * LAYERS * 85
    assert trace.shares(found, 4)[0] == {"name": "gemm<float>", "launches": LAYERS, "us": 100.0}
    assert trace.store_share(found) == pytest.approx(10 / 90)


def test_the_step_that_closes_groups_is_told_from_the_others() -> None:
    got = trace.closing(trace.kernels(events(6, closing=3)), LAYERS)
    assert got == {
        "plain_us": 170.0,
        "closing_us": 230.0,
        "ratio": 230 / 170,
        "store_us": 20.0,
        "closing_store_us": 80.0,
        "attention_us": 60.0,
        "closing_attention_us": 120.0,
        "median_us": 170.0,
    }


def test_a_closing_step_is_compared_with_those_just_before_it() -> None:
    """Later ones have longer contexts: here attention takes twice as long from some step on, and closing comes last."""
    early, late = events(10, closing=99), events(10, closing=8)
    end = max(event["ts"] + event["dur"] for event in early if event.get("cat") == "kernel") + 5
    for event in late:
        if event.get("cat") == "kernel":
            event["ts"] += end
            event["dur"] *= 2 if event["name"] == "kivi_decode" else 1
    got = trace.closing(trace.kernels(early + late), LAYERS)
    assert got["attention_us"] == 120.0
    assert got["closing_attention_us"] == 240.0


@pytest.mark.parametrize(
    ("name", "attends"),
    [
        ("kivi_decode", True),
        ("cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::Colle...", True),
        ("cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<8>, cute::C<128>>...", False),
        ("vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, (vllm::Fp8KVCacheDat...", False),
        ("kernel_unified_attention_3d", True),
    ],
)
def test_attention_by_name(name: str, attends: bool) -> None:
    assert bool(trace.ATTENTION.search(name)) == attends


def test_too_few_steps() -> None:
    with pytest.raises(ValueError, match="2 whole steps of 2 layers"):
        trace.closing(trace.kernels(events(3, closing=1)), LAYERS)


def test_a_layer_in_order() -> None:
    got = trace.layer(trace.kernels(events(4, closing=9)), LAYERS)
    assert got == [
        {"name": "gemm<float>", "at": 5.0, "us": 50.0},
        {"name": "_append_kernel", "at": 55.0, "us": 10.0},
        {"name": "kivi_decode", "at": 60.0, "us": 30.0},
    ]
