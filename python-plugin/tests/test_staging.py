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

    def step(
        self, rows: list[str], started: dict[str, int] | None = None, ended: tuple[str, ...] = ()
    ) -> dict[str, tuple[int, int]]:
        """Ids of the rows, tokens computed of those that start; returns {id: (slot, readable_from)}."""
        with self.pool.step(ended, started or {}, lambda: rows):
            slots = self.pool.rows(len(rows))
        return {request: (slot.index, slot.readable_from) for request, slot in zip(rows, slots, strict=True)}


def test_a_request_keeps_its_slot_from_step_to_step() -> None:
    engine = Engine(4)
    first = engine.step(["a", "b"], {"a": 0, "b": 0})
    assert first["a"] != first["b"]
    assert engine.step(["b", "a"]) == first, "vLLM may reorder its batch"
    assert engine.pool.used == 2


def test_a_request_that_is_not_scheduled_keeps_its_slot() -> None:
    engine = Engine(2)
    first = engine.step(["a", "b"], {"a": 0, "b": 0})
    for _ in range(6):
        engine.step(["b"])
    assert engine.step(["a"])["a"] == first["a"]


def test_what_a_new_request_has_computed_is_readable_from_pages_alone() -> None:
    engine = Engine(2)
    assert engine.step(["hit"], {"hit": 256})["hit"][1] == 256
    assert engine.step(["hit"])["hit"][1] == 256
    assert engine.step(["miss"], {"miss": 0})["miss"][1] == 0


def test_ended_requests_make_room_in_the_same_step() -> None:
    engine = Engine(2)
    engine.step(["a", "b"], {"a": 0, "b": 0})
    rows = engine.step(["c", "d"], {"c": 0, "d": 0}, ended=("a", "b", "never seen"))
    assert {index for index, _ in rows.values()} == {0, 1}
    assert engine.pool.used == 2


def test_preempted_and_resumed_starts_over() -> None:
    engine = Engine(2)
    engine.step(["a"], {"a": 0})
    engine.step([], ended=("a",))
    assert engine.pool.used == 0
    assert engine.step(["a"], {"a": 256})["a"][1] == 256


@pytest.mark.parametrize("start", [0, 128])
def test_a_restart_that_nobody_called_ended_takes_no_second_slot(start: int) -> None:
    engine = Engine(1)
    slot = engine.step(["a"], {"a": 0})["a"][0]
    assert engine.step(["a"], {"a": start})["a"] == (slot, start)
    assert engine.pool.used == 1


def test_an_id_used_again_after_its_end_gets_a_fresh_slot() -> None:
    engine = Engine(2)
    engine.step(["a"], {"a": 128})
    assert engine.step(["a"], {"a": 0}, ended=("a",))["a"][1] == 0


def test_more_requests_than_slots_is_an_error_not_corruption() -> None:
    engine = Engine(1)
    with pytest.raises(StagingError, match="all 1 slots are taken and request b needs one"):
        engine.step(["a", "b"], {"a": 0, "b": 0})


def test_rows_without_a_slot_are_an_error() -> None:
    engine = Engine(2)
    with pytest.raises(StagingError, match="request 'b' has a row in the batch but no slot"):
        engine.step(["a", "b"], {"a": 0})


def test_rows_without_an_owner_are_an_error() -> None:
    pool = SlotPool(2)
    with pool.step((), {"a": 0}), pytest.raises(StagingError, match="did not tell whose rows these are"):
        pool.rows(1)


def test_padding_is_scratch() -> None:
    pool = SlotPool(3)
    with pool.step((), {"a": 0}, lambda: ["a"]):
        first, *padding = pool.rows(3)
    assert first.index != pool.scratch
    assert [slot.index for slot in padding] == [3, 3]


def test_owners_may_be_told_within_the_step() -> None:
    """And only of that step: what is told outside one (dummy runs) is forgotten."""
    pool = SlotPool(2)
    pool.own_rows(["a"])
    with pool.step((), {"a": 0, "b": 128}):
        pool.own_rows(["b", "a"])
        assert [slot.readable_from for slot in pool.rows(2)] == [128, 0]
    with pool.step((), {}), pytest.raises(StagingError, match="did not tell"):
        pool.rows(1)


def test_outside_a_step_all_rows_are_scratch() -> None:
    pool = SlotPool(3)
    assert [slot.index for slot in pool.rows(2)] == [3, 3]
    assert pool.used == 0
    with pytest.raises(RuntimeError, match="boom"), pool.step((), {}, lambda: ["a"]):
        raise RuntimeError("boom")
    assert pool.rows(1)[0].index == pool.scratch


@given(st.lists(st.lists(st.integers(0, 7), unique=True, max_size=4), max_size=30))
def test_live_requests_never_share_a_slot(batches: list[list[int]]) -> None:
    """Any order of starts, pauses and ends, with a capacity of exactly the most that ever run at once."""
    engine, owner = Engine(8), {}
    for batch in batches:
        rows = [str(r) for r in batch]
        ended = tuple(r for r in owner if r not in rows and int(r) % 2)  # odd ones end when they pause
        for request in ended:
            del owner[request]
        started = {request: 128 * int(request) for request in rows if request not in owner}
        for request, (slot, readable_from) in engine.step(rows, started, ended).items():
            assert owner.setdefault(request, slot) == slot
            assert readable_from == 128 * int(request)
        assert len(set(owner.values())) == len(owner)
        assert engine.pool.used == len(owner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ring_remembers_the_newest_tokens(dtype: torch.dtype, seeded: torch.Generator) -> None:
    ring = Ring(slots=2, num_kv_heads=3, key_tokens=40, value_tokens=16, head_size=8, dtype=dtype)
    assert ring.key.shape == (3, 3, 40, 8)
    assert ring.value.shape == (3, 3, 16, 8)
    assert ring.nbytes == 3 * 3 * (40 + 16) * 8 * dtype.itemsize
    tokens = torch.randn(2, 100, 3, 8, generator=seeded).to(dtype).float()
    for write, read, size in (
        (ring.write_keys, ring.read_keys, 40),
        (ring.write_values, ring.read_values, 16),
    ):
        for slot in (0, 2):
            for start, end in ((0, 13), (13, 14), (14, 26), (26, 42), (42, 55), (55, 71), (71, 84), (84, 100)):
                positions = torch.arange(start, end)
                write(torch.full_like(positions, slot), positions, tokens[slot // 2, start:end])
        for slot in (0, 2):
            positions = torch.arange(100 - size, 100)
            got = read(torch.full_like(positions, slot), positions)
            assert got.equal(tokens[slot // 2, 100 - size :])
            assert got.dtype == torch.float32
    assert ring.key[1].eq(0).all(), "a slot that nobody wrote"
    assert ring.value[1].eq(0).all()


def test_a_ring_reads_many_rows_at_once(seeded: torch.Generator) -> None:
    ring = Ring(4, 2, 16, 8, 8, torch.float32)
    slots, positions = torch.tensor([[3], [0]]).expand(2, 5), torch.stack([torch.arange(14, 19), torch.arange(3, 8)])
    key, value = torch.randn(2, 10, 2, 8, generator=seeded)
    ring.write_keys(slots.flatten(), positions.flatten(), key)
    ring.write_values(slots.flatten(), positions.flatten(), value)
    assert ring.read_keys(slots, positions).equal(key.view(2, 5, 2, 8))
    assert ring.read_values(slots, positions).equal(value.view(2, 5, 2, 8))
