"""Open groups: a full-precision ring of the newest tokens for each running sequence, keyed by request.

A request owns a slot from its first step to its end (or preemption); the slot names a row of every layer's ring. The
owner of a row of the batch is known from vLLM's runner, and who ended from the scheduler's output, so identity is exact
and nothing is guessed from block ids: a running request that is not scheduled for many steps keeps its open group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch


class StagingError(RuntimeError):
    """A live row without a slot: reading on would be silent corruption."""


@dataclass
class Slot:
    """One request's place in the rings.

    Attributes:
        index: row of every ring.
        readable_from: tokens below exist only quantized (a prefix hit restored them before this request ran).
        filled_to: tokens the request had after its last step.
    """

    index: int
    readable_from: int
    filled_to: int


class SlotPool:
    """Slots of one model runner. Row ``capacity`` of every ring is scratch for rows that belong to no request."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: dict[str, Slot] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._row_owners: Callable[[], Sequence[str]] | None = None

    @property
    def scratch(self) -> int:
        return self.capacity

    @property
    def used(self) -> int:
        return len(self._slots)

    @contextmanager
    def step(self, ended: Iterable[str], row_owners: Callable[[], Sequence[str]]) -> Iterator[None]:
        """One engine step: frees the slots of requests that ended or were preempted, then lends ``row_owners``.

        Args:
            ended: ids that no longer run; freed before any new id is bound, so the capacity always suffices.
            row_owners: the request of each row of the batch, valid once the runner has updated its batch.
        """
        for request in ended:
            slot = self._slots.pop(request, None)
            if slot is not None:
                self._free.append(slot.index)
        self._row_owners = row_owners
        try:
            yield
        finally:
            self._row_owners = None

    def rows(self, computed: Sequence[int], lengths: Sequence[int]) -> list[Slot]:
        """The slots of the batch's rows.

        Args:
            computed, lengths: tokens each row has before and after this step.

        Outside a step (dummy runs) all rows are scratch. A request seen for the first time gets a free slot; its ring
        holds nothing yet, so what it has already computed is readable from pages alone.

        Raises:
            StagingError: more running requests than slots.
        """
        if self._row_owners is None:
            return [Slot(self.scratch, 0, 0) for _ in computed]
        owners = self._row_owners()
        if len(owners) < len(computed):
            raise StagingError(f"KIVI staging: {len(computed)} rows in the batch but {len(owners)} requests")
        slots = []
        for request, start, end in zip(owners, computed, lengths, strict=False):
            slot = self._slots.get(request)
            if slot is None or start != slot.filled_to:  # new, or restarted without having been called preempted
                slot = self._bind(request, start, slot)
            slot.filled_to = end
            slots.append(slot)
        return slots

    def _bind(self, request: str, start: int, previous: Slot | None) -> Slot:
        if previous is not None:
            index = previous.index
        elif self._free:
            index = self._free.pop()
        else:
            raise StagingError(f"KIVI staging: all {self.capacity} slots are taken and request {request} needs one")
        slot = self._slots[request] = Slot(index, start, start)
        return slot


building: ContextVar[SlotPool | None] = ContextVar("kivi_slot_pool", default=None)
"""The pool of the runner whose metadata builders are being made."""


def ring_dtype(model_dtype: torch.dtype) -> torch.dtype:
    """What open tokens wait in: bfloat16 for a bfloat16 model, float32 otherwise (exact for float16 too)."""
    return torch.bfloat16 if model_dtype == torch.bfloat16 else torch.float32


class Ring:
    """One layer's full-precision tokens: position p of a request lies at ``p % tokens`` of its slot's row.

    Args:
        slots: capacity of the pool; one more row is scratch.
        tokens: at least key group + window.
        dtype: see :func:`ring_dtype`.
    """

    def __init__(self, slots: int, num_kv_heads: int, tokens: int, head_size: int, dtype: torch.dtype) -> None:
        shape = (slots + 1, num_kv_heads, tokens, head_size)
        self.tokens = tokens
        self.key = torch.zeros(shape, dtype=dtype)
        self.value = torch.zeros(shape, dtype=dtype)

    @property
    def nbytes(self) -> int:
        return self.key.nbytes + self.value.nbytes

    def key_array(self) -> np.ndarray:
        """The keys as compiled kernels take them: NumPy has no bfloat16, so its bits as uint16."""
        return _array(self.key)

    def value_array(self) -> np.ndarray:
        """The values, likewise."""
        return _array(self.value)

    def write(self, slots: torch.Tensor, positions: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write tokens: slots, positions int64 [n]; key, value [n, H, D]."""
        at = positions % self.tokens
        self.key[slots, :, at] = key.to(self.key.dtype)
        self.value[slots, :, at] = value.to(self.value.dtype)

    def read(self, slots: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float32 [..., H, D] keys and values of slots, positions int64 [...]."""
        at = positions % self.tokens
        return self.key[slots, :, at].float(), self.value[slots, :, at].float()


def _array(ring: torch.Tensor) -> np.ndarray:
    return ring.view(torch.uint16).numpy() if ring.dtype == torch.bfloat16 else ring.numpy()
