"""A step's metadata: for any batch, each query reads what the reference says, and the rings hold the rest."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_kivi.backend.cpu.metadata import KiviMetadata, build_metadata
from vllm_kivi.cache.staging import Slot
from vllm_kivi.config import KiviConfig, parse_config
from vllm_kivi.reference import closed_keys, rough_values


@dataclass
class Row:
    computed: int
    count: int
    hit: int
    """Key groups that a prefix hit restored."""


row_strategy = st.builds(
    Row, computed=st.integers(0, 700), count=st.one_of(st.integers(0, 3), st.integers(0, 600)), hit=st.integers(0, 8)
)
window_strategy = st.sampled_from([0, 1, 40, 128, 300])
config_strategy = st.builds(
    lambda group, key_window, value_window: parse_config(
        "kivi_k4v4", {"key_group": group, "key_window": key_window, "value_window": value_window}
    ),
    st.sampled_from([32, 64, 128, 256]),
    window_strategy,
    window_strategy,
)


def build(config: KiviConfig, rows: list[Row], draft_tokens: int = 0) -> tuple[KiviMetadata, list[Slot]]:
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + row.count)
    # A request starts at a group's edge, at or before what it has computed.
    slots = [Slot(i, min(row.hit, row.computed // config.key_group) * config.key_group) for i, row in enumerate(rows)]
    table = torch.arange(len(rows) * 50, dtype=torch.int32).view(len(rows), 50)
    lengths = [row.computed + row.count for row in rows]
    mapping = torch.arange(starts[-1] + 3)
    return build_metadata(config, starts, lengths, slots, table, mapping, draft_tokens), slots


@given(config_strategy, st.lists(row_strategy, min_size=1, max_size=5))
def test_segments_tile_the_queries(config: KiviConfig, rows: list[Row]) -> None:
    meta, slots = build(config, rows)
    several = [i for i, row in enumerate(rows) if row.count > 1]
    assert [row.slot for row in meta.prefill] == [slots[i] for i in several]
    for i, row in zip(several, meta.prefill, strict=True):
        assert (row.computed, row.length) == (rows[i].computed, rows[i].computed + rows[i].count)
        assert row.first_token == sum(r.count for r in rows[:i])
        assert row.block_ids.tolist() == list(range(i * 50, i * 50 + 50))
        position = row.computed
        floor = row.slot.readable_from
        for first, last, closed, rough in row.segments:
            assert first == position < last
            position = last
            for query in range(first, last):
                assert closed == closed_keys(query, config.key_group, config.key_window, floor)
                assert rough <= rough_values(query, config.value_residual, config.value_window, floor)
            assert rough == rough_values(first, config.value_residual, config.value_window, floor)
        assert position == row.length
        closed_of = [segment.closed for segment in row.segments]
        assert closed_of == sorted(set(closed_of)), "no two segments read the same"


@given(config_strategy, st.lists(row_strategy, min_size=1, max_size=5))
def test_the_full_precision_span_covers_open_tokens_and_closing_groups(config: KiviConfig, rows: list[Row]) -> None:
    meta, _ = build(config, rows)
    for row in meta.prefill:
        assert row.key_start <= row.computed
        assert all(row.key_start <= segment.closed for segment in row.segments)
        assert row.key_start <= row.computed // config.key_group * config.key_group
        # They come from the rings, so the rings must still hold them.
        assert row.computed - row.key_start <= config.key_staging_tokens()
        assert row.value_start <= row.computed
        assert all(row.value_start <= segment.rough for segment in row.segments)
        assert row.computed - row.value_start <= config.value_staging_tokens()


@given(config_strategy, st.lists(row_strategy, min_size=1, max_size=5))
def test_rows_of_one_token_decode_together(config: KiviConfig, rows: list[Row]) -> None:
    meta, slots = build(config, rows)
    alone = [i for i, row in enumerate(rows) if row.count == 1]
    assert meta.num_tokens == sum(row.count for row in rows)
    if not alone:
        assert meta.decode is None
        return
    decode = meta.decode
    assert decode is not None
    assert decode.tokens.tolist() == [sum(r.count for r in rows[:i]) for i in alone]
    assert decode.slots.tolist() == alone
    assert decode.lengths.tolist() == [rows[i].computed + 1 for i in alone]
    assert decode.closed.tolist() == [
        closed_keys(rows[i].computed, config.key_group, config.key_window, slots[i].readable_from) for i in alone
    ]
    assert decode.rough.tolist() == [
        rough_values(rows[i].computed, config.value_residual, config.value_window, slots[i].readable_from)
        for i in alone
    ]
    assert decode.max_length == int(decode.lengths.max())
    assert decode.block_table[:, 0].tolist() == [50 * i for i in alone]
    assert decode.block_table.is_contiguous()
    assert decode.closing.tolist() == [n for n, i in enumerate(alone) if (rows[i].computed + 1) % config.key_group == 0]
    unread = "the ring holds what is not read from pages"
    assert (decode.lengths - decode.closed <= config.key_staging_tokens()).all(), unread
    assert (decode.lengths - decode.rough <= config.value_staging_tokens()).all(), unread


@given(config_strategy, st.lists(row_strategy, min_size=1, max_size=5), st.sampled_from([0, 5]))
def test_the_rings_get_each_rows_newest_tokens_once(config: KiviConfig, rows: list[Row], draft_tokens: int) -> None:
    meta, _ = build(config, rows, draft_tokens)
    for staged, ring in (
        (meta.staged_keys, config.key_staging_tokens(draft_tokens)),
        (meta.staged_values, config.value_staging_tokens(draft_tokens)),
    ):
        got = list(zip(staged.tokens.tolist(), staged.slots.tolist(), staged.positions.tolist(), strict=True))
        wanted, start = [], 0
        for i, row in enumerate(rows):
            kept = range(max(0, row.count - ring), row.count)
            wanted += [(start + n, i, row.computed + n) for n in kept]
            start += row.count
        assert got == wanted
        places = [(slot, position % ring) for _, slot, position in got]
        assert len(set(places)) == len(places), "two tokens of one write in one place have no defined winner"


@given(config_strategy, st.lists(row_strategy, min_size=1, max_size=5))
def test_every_token_of_the_step_has_its_place_in_the_pages(config: KiviConfig, rows: list[Row]) -> None:
    meta, _ = build(config, rows)
    assert meta.slot_mapping.tolist() == list(range(sum(row.count for row in rows))), "padding is cut off"


def test_a_batch_of_padding_is_empty() -> None:
    meta, _ = build(parse_config("kivi_k4v4"), [Row(0, 0, 0), Row(5, 0, 0)])
    assert meta.decode is None
    assert meta.prefill == []
    assert meta.num_tokens == meta.staged_keys.tokens.numel() == meta.staged_values.tokens.numel() == 0


@pytest.mark.parametrize("count", [1, 5])
def test_a_request_that_starts_inside_a_group_is_an_error(count: int) -> None:
    with pytest.raises(RuntimeError, match="starts at token 130, inside a key group of 128"):
        build_metadata(
            parse_config("kivi_k4v4"),
            [0, count],
            [130 + count],
            [Slot(0, 130)],
            torch.zeros(1, 4, dtype=torch.int32),
            torch.zeros(count, dtype=torch.int64),
        )
