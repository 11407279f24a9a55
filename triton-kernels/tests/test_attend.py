"""A whole step of store and attention against the reference, over lengths, formats and both ways of doing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from batches import DEVICE, Row, Step

from vllm_kivi.config import PRESETS, KiviConfig
from vllm_kivi.kernels import append, decode

K4V4 = PRESETS["k4v4"]
WINDOWED = replace(K4V4, key_window=40, value_residual=16, value_window=24)
PLAIN = replace(PRESETS["k4v4"], rotation=False, value_group=32, value_group_given=True)
K4V2 = PRESETS["k4v2"]
K2V2 = PRESETS["k2v2"]


def check(step: Step, tolerance: float) -> None:
    assert step.output_error() < tolerance
    assert step.ring_error() <= 2.0**-5  # a rotated token may round to a neighbour
    if not step.config.rotation:
        assert step.wrong_bytes() == 0
    else:
        # The rotation sums in another order, so a few codes and zeros may round the other way.
        assert step.wrong_bytes() < 1e-2 * step.pages.numel()


FEW = [Row(0, 1), Row(126, 1), Row(127, 1), Row(128, 1), Row(300, 1), Row(0, 0)]
MANY = [Row(0, 5), Row(100, 60), Row(127, 3), Row(128, 128), Row(255, 1), Row(256, 20, readable_from=256)]


FORMATS = pytest.mark.parametrize(
    ("config", "head_size", "ratio", "dtype", "splits"),
    [
        (K4V4, 64, 4, torch.float16, 1),
        (WINDOWED, 64, 2, torch.float16, 2),
        (PLAIN, 128, 1, torch.bfloat16, 3),
        (K4V2, 96, 3, torch.float16, 1),
        (K2V2, 64, 8, torch.bfloat16, 2),
    ],
    ids=("k4v4", "windows", "plain", "k4v2-d96", "k2v2"),
)


@FORMATS
def test_decode(config: KiviConfig, head_size: int, ratio: int, dtype: torch.dtype, splits: int) -> None:
    step = Step(config, FEW, head_size, 1, ratio, dtype).ready()
    step.run_few(splits)
    check(step, 4e-3)


@pytest.fixture
def compiled_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What is patched meanwhile decides how kernels are compiled, and no longer."""
    caches = decode._compiled, decode._prepared, append._appender
    for cache in caches:
        cache.cache_clear()
    yield monkeypatch
    for cache in caches:
        cache.cache_clear()


@pytest.mark.skipif(DEVICE != "cuda", reason="decode.cu needs a GPU")
@FORMATS
@pytest.mark.parametrize(
    ("ahead", "which"), [(True, 0), (True, 1), (True, 2), (True, 3), (False, 0), (False, 1)],
    ids=["ahead-few", "ahead-some", "ahead-many", "ahead-most", "plain-few", "plain-some"],
)  # fmt: skip
def test_decode_by_all_kinds_of_blocks(
    config: KiviConfig, head_size: int, ratio: int, dtype: torch.dtype, splits: int, ahead: bool, which: int,
    compiled_anew: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Those of older architectures too, which load for themselves."""
    layout = config.layout(head_size, 128)
    if ahead and not decode.copies_ahead(layout, decode._architecture(0)):
        pytest.skip("this GPU copies nothing ahead")
    compiled_anew.setattr(decode, "copies_ahead", lambda *_: ahead)
    compiled_anew.setattr(decode, "blocks_of", lambda *_: decode._shapes(layout, ahead)[which])
    step = Step(config, [*FEW, Row(1030, 1), Row(511, 1)], head_size, 3, ratio, dtype).ready()
    step.run_few(splits)
    check(step, 4e-3)


def test_decode_of_more_heads_than_a_program_appends() -> None:
    step = Step(K4V4, [Row(126, 1), Row(127, 1), Row(130, 1)], 64, 6, 3, torch.float16).ready()
    step.run_few(1)
    check(step, 4e-3)


@pytest.mark.parametrize(("head_size", "key_group"), [(64, 128), (96, 64), (80, 128), (128, 256)])
def test_a_program_closes_whole_heads_where_many_groups_end(
    head_size: int, key_group: int, compiled_anew: pytest.MonkeyPatch
) -> None:
    """As it does in slices: the bytes of the reference."""
    compiled_anew.setattr(append, "_CLOSERS", 1)
    compiled_anew.setattr(append, "processors_of", lambda _: 2)
    rows = [Row(key_group - 1, 1), Row(2 * key_group - 1, 1), Row(key_group + 1, 1), Row(key_group - 1, 1)]
    config = replace(K4V4, key_group=key_group, rotation=False)
    step = Step(config, rows, head_size, 2, 2, torch.float16, max(key_group, 128)).ready()
    step.run_few(1)
    assert step.wrong_bytes() == 0
    assert step.ring_error() == 0


@pytest.mark.parametrize(
    ("config", "head_size", "ratio", "dtype"),
    [
        (K4V4, 64, 4, torch.float16),
        (WINDOWED, 64, 3, torch.bfloat16),
        (K4V2, 80, 1, torch.float16),
        (K2V2, 64, 2, torch.float16),
    ],
    ids=("k4v4", "windows", "k4v2-d80", "k2v2"),
)
def test_prefill_and_chunks(config: KiviConfig, head_size: int, ratio: int, dtype: torch.dtype) -> None:
    step = Step(config, MANY, head_size, 1, ratio, dtype).ready()
    step.run_many()
    check(step, 4e-3)


def test_verification_of_drafts_over_group_edges() -> None:
    """Up to 6 tokens a row, causal inside the step; a draft may complete the group that the next one reads."""
    rows = [Row(120, 6), Row(124, 6), Row(126, 4), Row(127, 6), Row(128, 1), Row(3, 2)]
    step = Step(WINDOWED, rows, 64, 2, 4, torch.float16, drafts=5).ready()
    step.run_few(2)
    check(step, 4e-3)


def test_verification_in_several_tiles() -> None:
    """Two queries of 16 heads fill a tile of two-bit values; all tiles of a row must be split alike."""
    step = Step(K2V2, [Row(253, 6), Row(30, 3)], 64, 1, 16, torch.float16, drafts=5).ready()
    step.run_few(2)
    check(step, 4e-3)


def test_both_ways_store_the_same_bytes() -> None:
    """What a page holds must not depend on how its tokens came: a prefix hit reads what decode stored."""
    rows = [Row(127, 1), Row(200, 56), Row(0, 128)]
    many = Step(K4V4, rows, 64, 1, 2, torch.bfloat16).ready()
    few = Step(K4V4, rows, 64, 1, 2, torch.bfloat16, drafts=128).ready()
    many.run_many()
    few.run_few(1)
    assert torch.equal(many.pages, few.pages)


def test_skipped_tokens_write_no_page() -> None:
    """A negative slot mapping (dummy runs) leaves every page alone, both ways, closing included."""
    for few in (True, False):
        step = Step(K4V4, [Row(127, 1), Row(126, 2)], 64, 1, 1, torch.float16, drafts=2).ready()
        step.slot_mapping.fill_(-1)
        step.run_few(1) if few else step.run_many()
        assert torch.equal(step.pages.cpu(), step.before_pages)


SIZES = [(64, 1), (64, 3), (80, 2), (96, 5), (128, 4), (128, 6), (128, 7), (128, 8), (128, 16), (256, 2)]


@pytest.mark.skipif(DEVICE == "cpu", reason="too many shapes for the interpreter")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("head_size", "ratio"), SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_shape(preset: str, head_size: int, ratio: int, dtype: torch.dtype) -> None:
    few = Step(PRESETS[preset], [*FEW, Row(700, 1)], head_size, 2, ratio, dtype).ready()
    few.run_few(3)
    check(few, 1e-2)
    drafts = Step(
        PRESETS[preset], [Row(124, 6), Row(127, 4), Row(300, 1)], head_size, 2, ratio, dtype, drafts=5
    ).ready()
    drafts.run_few(2)
    check(drafts, 1e-2)
    many = Step(PRESETS[preset], [*MANY, Row(100, 700)], head_size, 2, ratio, dtype).ready()
    many.run_many()
    check(many, 1e-2)
