"""Who owns which ring row, and what a ring remembers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_kivi.cache.staging import Ring, SlotPool, StagingError


class Engine:
    """A runner's side of the pool: a batch of request ids, one step at a time."""

    def __init__(self, capacity: int) -> None:
        self.pool = SlotPool(capacity)

    def step(self, rows: dict[str, tuple[int, int]], ended: tuple[str, ...] = ()) -> dict[str, tuple[int, int]]:
        """Rows {id: (computed, length)}; returns {id: (slot, readable_from)}."""
        with self.pool.step(ended, lambda: list(rows)):
            slots = self.pool.rows([c for c, _ in rows.values()], [n for _, n in rows.values()])
        return {request: (slot.index, slot.readable_from) for request, slot in zip(rows, slots, strict=True)}


def test_a_request_keeps_its_slot_from_step_to_step() -> None:
    engine = Engine(4)
    first = engine.step({"a": (0, 7), "b": (0, 3)})
    assert first["a"] != first["b"]
    second = engine.step({"b": (3, 4), "a": (7, 8)})  # vLLM may reorder its batch
    assert second == first
    assert engine.pool.used == 2


def test_a_request_that_is_not_scheduled_keeps_its_slot() -> None:
    engine = Engine(2)
    first = engine.step({"a": (0, 7), "b": (0, 3)})
    for n in range(3, 9):
        engine.step({"b": (n, n + 1)})
    assert engine.step({"a": (7, 8)})["a"] == first["a"]


def test_what_a_new_request_has_computed_is_readable_from_pages_alone() -> None:
    engine = Engine(2)
    assert engine.step({"hit": (256, 300)})["hit"][1] == 256
    assert engine.step({"hit": (300, 301)})["hit"][1] == 256
    assert engine.step({"miss": (0, 300)})["miss"][1] == 0


def test_ended_requests_make_room_in_the_same_step() -> None:
    engine = Engine(2)
    engine.step({"a": (0, 5), "b": (0, 5)})
    rows = engine.step({"c": (0, 5), "d": (0, 5)}, ended=("a", "b", "never seen"))
    assert {index for index, _ in rows.values()} == {0, 1}
    assert engine.pool.used == 2


def test_preempted_and_resumed_starts_over() -> None:
    engine = Engine(2)
    engine.step({"a": (0, 300)})
    engine.step({}, ended=("a",))
    assert engine.pool.used == 0
    assert engine.step({"a": (256, 301)})["a"][1] == 256


@pytest.mark.parametrize("start", [0, 128])
def test_a_restart_that_nobody_announced_is_noticed(start: int) -> None:
    engine = Engine(1)
    slot = engine.step({"a": (0, 300)})["a"][0]
    assert engine.step({"a": (start, 300)})["a"] == (slot, start)
    assert engine.pool.used == 1


def test_an_id_used_again_after_its_end_gets_a_fresh_slot() -> None:
    engine = Engine(2)
    engine.step({"a": (128, 300)})
    assert engine.step({"a": (0, 10)}, ended=("a",))["a"][1] == 0


def test_more_requests_than_slots_is_an_error_not_corruption() -> None:
    engine = Engine(1)
    with pytest.raises(StagingError, match="all 1 slots are taken and request b needs one"):
        engine.step({"a": (0, 5), "b": (0, 5)})


def test_rows_without_an_owner_are_an_error() -> None:
    pool = SlotPool(2)
    with pool.step((), lambda: ["a"]), pytest.raises(StagingError, match="2 rows in the batch but 1 requests"):
        pool.rows([0, 0], [1, 1])


def test_outside_a_step_all_rows_are_scratch() -> None:
    pool = SlotPool(3)
    assert [slot.index for slot in pool.rows([0, 0], [1, 1])] == [3, 3]
    assert pool.used == 0
    with pytest.raises(RuntimeError, match="boom"), pool.step((), lambda: ["a"]):
        raise RuntimeError("boom")
    assert pool.rows([0], [1])[0].index == pool.scratch


@given(st.lists(st.lists(st.integers(0, 7), unique=True, max_size=4), max_size=30))
def test_live_requests_never_share_a_slot(batches: list[list[int]]) -> None:
    """Any order of starts, pauses and ends, with a capacity of exactly the most that ever run at once."""
    engine, lengths, owner, running = Engine(8), {}, {}, set()
    for batch in batches:
        ended = tuple(str(r) for r in running - set(batch) if r % 2)  # odd ones end when they pause
        running = {r for r in running if str(r) not in ended} | set(batch)
        for request in ended:
            lengths.pop(request), owner.pop(request)
        rows = {str(r): (lengths.get(str(r), 0), lengths.get(str(r), 0) + 1 + r) for r in batch}
        for request, (slot, readable_from) in engine.step(rows, ended).items():
            assert owner.setdefault(request, slot) == slot
            assert readable_from == 0
        lengths.update({request: after for request, (_, after) in rows.items()})
        assert len(set(owner.values())) == len(owner)
        assert engine.pool.used == len(owner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ring_remembers_the_newest_tokens(dtype: torch.dtype, seeded: torch.Generator) -> None:
    ring = Ring(slots=2, num_kv_heads=3, tokens=40, head_size=8, dtype=dtype)
    assert ring.key.shape == (3, 3, 40, 8)
    assert ring.nbytes == 2 * 3 * 3 * 40 * 8 * dtype.itemsize
    key, value = torch.randn(2, 2, 100, 3, 8, generator=seeded).to(dtype).float()
    for slot in (0, 2):
        for start, end in ((0, 33), (33, 34), (34, 60), (60, 100)):
            positions = torch.arange(start, end)
            ring.write(
                torch.full_like(positions, slot), positions, key[slot // 2, start:end], value[slot // 2, start:end]
            )
    for slot in (0, 2):
        positions = torch.arange(60, 100)
        got_key, got_value = ring.read(torch.full_like(positions, slot), positions)
        assert got_key.equal(key[slot // 2, 60:])
        assert got_value.equal(value[slot // 2, 60:])
    assert ring.key[1].eq(0).all(), "a slot that nobody wrote"
    assert got_key.dtype == torch.float32


def test_a_ring_reads_many_rows_at_once(seeded: torch.Generator) -> None:
    ring = Ring(4, 2, 16, 8, torch.float32)
    slots, positions = torch.tensor([[3], [0]]).expand(2, 5), torch.stack([torch.arange(14, 19), torch.arange(3, 8)])
    key, value = torch.randn(2, 10, 2, 8, generator=seeded)
    ring.write(slots.flatten(), positions.flatten(), key, value)
    got_key, got_value = ring.read(slots, positions)
    assert got_key.equal(key.view(2, 5, 2, 8))
    assert got_value.equal(value.view(2, 5, 2, 8))
