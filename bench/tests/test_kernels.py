import json
import subprocess
import sys
from pathlib import Path

import pytest

from kivi_bench.kernels import catalog, document, footprint, plugin
from kivi_bench.kernels.process import ENTRY
from kivi_bench.kernels.session import Budget
from kivi_bench.kernels.shapes import BATCHES, CONTEXTS, RATIOS, Shape, grid, parse_numbers
from kivi_bench.kernels.worker import no_gpu

LOAD = Shape(16, 2048, 4)


def answer(*samples: float, of: int = 1000) -> dict:
    return {"event": "measured", "elapsed": 1.0, "status": "ok", "bytes": of, "samplesUs": list(samples)}


def test_every_shape_is_there_once_and_the_ones_that_matter_come_first() -> None:
    shapes = grid(BATCHES, CONTEXTS, RATIOS)
    assert len(shapes) == len(set(shapes)) == len(BATCHES) * len(CONTEXTS) * len(RATIOS)
    assert shapes[0] == Shape(16, 512, 4)
    assert [shape.ratio for shape in shapes[:25]] == [4] * 25
    assert Shape(1, 131072, 4) in shapes[:8]
    # Of the other ratios, those that goals are about before the rest.
    assert {(shape.batch, shape.context) for shape in shapes[25:33]} == {(s.batch, s.context) for s in shapes[:8]}
    assert grid((2,), (100,), (3,)) == [Shape(2, 100, 3)]


def test_numbers_are_read_strictly() -> None:
    assert parse_numbers("1,4, 32k,4", "contexts") == (1, 4, 32768)
    for text in ("", "1,", "0", "-1", "1.5", "k", "1e3"):
        with pytest.raises(ValueError, match="contexts: expected whole numbers"):
            parse_numbers(text, "contexts")


def test_plain_caches_read_every_token_once() -> None:
    assert footprint.flat(LOAD, 512.0) == 16 * 2048 * 8 * 512


@pytest.mark.parametrize("preset", ["k4v4", "k4v2", "k2v2"])
def test_kivi_reads_records_and_rings(preset: str) -> None:
    plugin.use_plugin(sources=False)
    from vllm_kivi.config import PRESETS
    from vllm_kivi.layout import staged_bytes

    config = PRESETS[preset]
    # Far from the ends of groups and windows, another block of tokens is another record.
    far, further = Shape(2, 4096 + 5, 4), Shape(2, 4096 + 5 + 128, 4)
    record = config.layout(128, 128).record_bytes
    assert footprint.kivi(further, config) - footprint.kivi(far, config) == pytest.approx(
        2 * 8 * record, abs=2 * 8 * 16
    )
    # A first group is still open: all of it lies in the rings.
    assert footprint.kivi(Shape(1, 20, 4), config) == 8 * 20 * 2 * staged_bytes(128)


def test_k4v4_reads_its_last_group_from_the_ring() -> None:
    plugin.use_plugin(sources=False)
    from vllm_kivi.config import PRESETS

    # The query of 2048 tokens is the last of its group: 1920 tokens are quantized, 128 are not.
    assert footprint.kivi(LOAD, PRESETS["k4v4"]) == 16 * 8 * (1920 * 134 + 128 * 2 * 144)


def test_a_budget_is_spent_when_its_time_has_passed() -> None:
    now = [0.0]
    budget = Budget(10, clock=lambda: now[0])
    now[0] = 9.9
    assert not budget.spent
    now[0] = 10.0
    assert budget.spent
    assert budget.elapsed == 10
    assert not Budget(None, clock=lambda: now[0]).spent


def test_a_figure_is_the_median_and_its_rate() -> None:
    found = document.entry("k4v4", LOAD, answer(3.0, 1.0, 100.0, of=3000), copy_rate=2e9)
    assert found["microseconds"] == 3.0
    assert found["bytesPerSecond"] == 1_000_000_000
    assert found["copyShare"] == 0.5
    assert found["samplesUs"] == [3.0, 1.0, 100.0]
    assert "event" not in found
    assert document.entry("k4v4", LOAD, answer(1.0), copy_rate=None)["copyShare"] is None
    skipped = document.entry("k4v4", LOAD, {"status": "skipped", "reason": "too large"}, 2e9)
    assert skipped["reason"] == "too large"
    assert "microseconds" not in skipped


def documented(*measurements: tuple[str, dict], optional: bool = False, **statuses: str) -> dict:
    names = tuple(dict.fromkeys([name for name, _ in measurements])) or ("k4v4",)
    made = document.new_document([], {}, names, optional)
    for one in made["implementations"]:
        one["status"] = statuses.get(one["name"], "ok")
        if one["status"] != "ok":
            one["reason"] = "because"
    made["measurements"] = [document.entry(name, LOAD, found, 1e9) for name, found in measurements]
    return made


def test_exit_code_tells_findings_from_what_was_left_out() -> None:
    good = ("k4v4", answer(1.0))
    assert document.exit_code(documented(good)) == 0
    assert document.exit_code(documented(good, ("fa3-fp8", {"status": "skipped", "reason": "no time"}))) == 0
    assert document.exit_code(documented(good, ("fa3-fp8", {"status": "failed", "reason": "it broke"}))) == 1
    assert document.exit_code(documented(("k4v4", {"status": "skipped", "reason": "no time"}))) == 1
    lacking = documented(good, ("k2v2", answer(1.0)), optional=True, k2v2="unsupported")
    assert document.exit_code(lacking) == 0
    lacking["implementations"][1]["optional"] = False
    assert document.exit_code(lacking) == 1


def test_the_table_has_figures_and_reasons() -> None:
    made = documented(
        ("k4v4", answer(2.0)),
        ("fa3-bf16", answer(5.0)),
        ("fa3-fp8", {"status": "failed", "reason": "KernelError: no"}),
        ("k2v2", {"status": "skipped", "reason": "too large"}),
    )
    made["copy"] = document.copy_entry({"samplesUs": [2000.0], "floorUs": [2.0]})
    head, row, *rest = document.render_table(made).splitlines()
    assert head.split() == ["gqa", "batch", "context", "k4v4", "fa3-bf16", "fa3-fp8", "k2v2"]
    assert row.split() == ["4", "16", "2048", "2.0", "50%", "2.50x", "5.0", "20%", "1.00x", "failed", "skipped"]
    assert "copy 2.15 TB/s" in rest[0]
    assert rest[-1] == "fa3-fp8 16x2048 gqa 4: KernelError: no"


def test_the_kernels_have_a_digest_that_changes_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = plugin.digest(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert plugin.digest(tmp_path) != first


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ENTRY), *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "k4v4"], "--out"),
        (["--out", "x.json", "--only", "k4v5"], "'k4v5' is none of k4v4, fa3-bf16"),
        (["--out", "x.json", "--batches", "4x"], "batches: expected whole numbers"),
        (["--out", "x.json", "--budget-seconds", "0"], "expected a number above 0"),
        (["--out", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(words: list[str], message: str) -> None:
    finished = run(*words)
    assert finished.returncode == 2
    assert message in finished.stderr


@pytest.mark.skipif(no_gpu() is None, reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_saves_a_result(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    finished = run("--out", str(out), "--only", "fa3-bf16,k4v4", "--logs", str(tmp_path / "logs"))
    assert finished.returncode == 1
    saved = json.loads(out.read_text())
    assert saved["complete"]
    assert saved["measurements"] == []
    assert [one["name"] for one in saved["implementations"]] == ["k4v4", "fa3-bf16"]
    for one in saved["implementations"]:
        assert one["status"] == "unsupported"
        assert "CUDA" in one["reason"]
        assert one["reason"] in finished.stdout


def test_every_implementation_has_a_title() -> None:
    assert set(catalog.DEFAULT) <= set(catalog.NAMES)
    assert catalog.BASELINE in catalog.DEFAULT
    assert [name for name in catalog.NAMES if catalog.is_kivi(name)] == [n for n in catalog.NAMES if n.startswith("k")]
