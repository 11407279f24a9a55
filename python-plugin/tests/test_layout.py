"""The page's bytes: sizes that vLLM will count, sections that neither overlap nor leave holes, refused sizes."""

import itertools

import pytest
import torch

from vllm_kivi.config import PRESETS
from vllm_kivi.layout import RECORD_ALIGNMENT, CacheLayout, LayoutError
from vllm_kivi.reference import Sections


@pytest.mark.parametrize(("preset", "bytes_per_token"), [("k4v4", 134), ("k4v2", 105), ("k2v2", 88)])
def test_bytes_per_token_of_the_presets_at_128_channels(preset: str, bytes_per_token: int) -> None:
    layout = PRESETS[preset].layout(128, 128)
    assert layout.bytes_per_token == bytes_per_token
    assert layout.page_bytes(num_kv_heads=8) == 8 * 128 * bytes_per_token


def layouts() -> list[CacheLayout]:
    made = []
    for preset, d, group, blocks in itertools.product(
        PRESETS.values(), (64, 80, 96, 128, 256), (32, 64, 128, 256), (1, 2)
    ):
        value_group = preset.value_group_for(d)
        made.append(CacheLayout(d, group * blocks, preset.key_bits, preset.value_bits, group, value_group))
    return made


@pytest.mark.parametrize("layout", layouts(), ids=str)
def test_sections_cover_the_record_once(layout: CacheLayout) -> None:
    record = torch.zeros(layout.record_bytes, dtype=torch.uint8)
    views = vars(Sections(layout, record))
    assert len(views) == 6
    for view in views.values():
        view.view(torch.uint8).add_(1)
    used = int(record.count_nonzero())
    assert record[:used].eq(1).all(), "sections overlap or leave a hole"
    assert 0 <= layout.record_bytes - used < RECORD_ALIGNMENT
    assert layout.record_bytes % RECORD_ALIGNMENT == 0


def test_sections_hold_what_the_format_says() -> None:
    layout = PRESETS["k2v2"].layout(128, 128)
    sections = Sections(layout, torch.zeros(3, layout.record_bytes, dtype=torch.uint8))
    assert sections.key_codes.shape == (3, 128, 128 * 2 // 8)
    assert sections.value_codes.shape == (3, 128 * 2 // 8, 128)
    assert sections.key_zeros.shape == sections.key_scales.shape == (3, 4, 128)
    assert sections.value_zeros.shape == sections.value_scales.shape == (3, 4, 128)
    assert sections.key_zeros.dtype == sections.value_zeros.dtype == torch.uint16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_bits": 3}, "key_bits is 3"),
        ({"value_bits": 8}, "value_bits is 8"),
        ({"head_size": 100}, "head_size is 100; a positive multiple of 8"),
        ({"head_size": 0}, "head_size is 0"),
        ({"head_size": -8}, "head_size is -8"),
        ({"key_group": 36}, "key_group is 36; a positive multiple of 8"),
        ({"key_group": 0}, "key_group is 0"),
        ({"block_size": 0}, "key_group 128 does not divide the block size 0"),
        ({"block_size": 192}, "use a block size that is a multiple of 128"),
        ({"block_size": 64}, "key_group 128 does not divide the block size 64"),
        ({"value_group": 48}, r"value_group 48 does not divide the head size 128: use one of \[8, 16, 32, 64, 128\]"),
        ({"value_group": 0}, "value_group 0 does not divide"),
        ({"value_group": 256}, "value_group 256 does not divide"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    sizes = {"head_size": 128, "block_size": 128, "key_bits": 4, "value_bits": 4, "key_group": 128, "value_group": 64}
    CacheLayout(**sizes)
    with pytest.raises(LayoutError, match=message):
        CacheLayout(**{**sizes, **change})
