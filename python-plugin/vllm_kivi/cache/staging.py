"""Open groups: a ring of the newest tokens for each running sequence, keyed by request.

A request owns a slot from its first step to its end (or preemption); the slot names a row of every layer's ring. The
owner of a row of the batch is known from vLLM's runner, and who ended from the scheduler's output, so identity is exact
and nothing is guessed from block ids: a running request that is not scheduled for many steps keeps its open group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class StagingError(RuntimeError):
    """A live row without a slot: reading on would be silent corruption."""


@dataclass(frozen=True)
class Slot:
    """One request's place in the rings.

    Attributes:
        index: row of every ring.
        readable_from: tokens below exist only quantized (a prefix hit restored them before this request ran).
    """

    index: int
    readable_from: int


class SlotPool:
    """Slots of one model runner. Row ``capacity`` of every ring is scratch for rows that belong to no request."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: dict[str, Slot] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._scratch = Slot(capacity, 0)
        self._stepping = False
        self._owners: Callable[[], Sequence[str]] | None = None
        self.auditor: Any = None
        """Of :mod:`vllm_kivi.audit`, which sees what is built for a step; None unless asked for."""

    @property
    def scratch(self) -> int:
        return self.capacity

    @property
    def used(self) -> int:
        return len(self._slots)

    @contextmanager
    def step(
        self,
        ended: Iterable[str],
        started: Mapping[str, int],
        owners: Callable[[], Sequence[str]] | None = None,
    ) -> Iterator[None]:
        """One engine step: takes slots from requests that ended or were preempted, gives them to those that start.

        Args:
            ended: ids that no longer run; freed before any new id is bound, so the capacity always suffices.
            started: tokens already computed (a prefix hit) of each request that starts, or starts again.
            owners: the request of each row of the batch, valid once the runner has ordered its batch; None where
                :meth:`own_rows` will tell.

        Raises:
            StagingError: more running requests than slots.
        """
        for request in ended:
            self._release(request)
        for request, computed in started.items():
            self._release(request)  # started again without having been called ended
            if not self._free:
                raise StagingError(f"KIVI staging: all {self.capacity} slots are taken and request {request} needs one")
            self._slots[request] = Slot(self._free.pop(), computed)
        self._stepping, self._owners = True, owners
        try:
            yield
        finally:
            self._stepping, self._owners = False, None

    def own_rows(self, owners: Sequence[str]) -> None:
        """The request of each row of this step's batch; ignored outside a step (dummy runs)."""
        if self._stepping:
            self._owners = lambda: owners

    def rows(self, count: int) -> list[Slot]:
        """The slots of the first ``count`` rows of the batch; of scratch outside a step (dummy runs), and for padding.

        Raises:
            StagingError: a row's request has no slot.
        """
        if not self._stepping:
            return [self._scratch] * count
        if self._owners is None:
            raise StagingError("KIVI staging: the model runner did not tell whose rows these are")
        owners = self._owners()[:count]
        try:
            slots = [self._slots[request] for request in owners]
        except KeyError as error:
            raise StagingError(f"KIVI staging: request {error} has a row in the batch but no slot") from None
        return slots + [self._scratch] * (count - len(slots))

    def requests(self) -> frozenset[str]:
        """Who owns a slot."""
        return frozenset(self._slots)

    def owners(self) -> dict[int, tuple[str, Slot]]:
        """The owner of each slot that is taken, by its index."""
        return {slot.index: (request, slot) for request, slot in self._slots.items()}

    def _release(self, request: str) -> None:
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._free.append(slot.index)


building: ContextVar[SlotPool | None] = ContextVar("kivi_slot_pool", default=None)
"""The pool of the runner whose metadata builders are being made."""

stepping: ContextVar[SlotPool | None] = ContextVar("kivi_stepping", default=None)
"""The pool of the runner that is executing a step."""


def ring_dtype(model_dtype: torch.dtype) -> torch.dtype:
    """What open tokens wait in: bfloat16 for a bfloat16 model, float32 otherwise (exact for float16 too)."""
    return torch.bfloat16 if model_dtype == torch.bfloat16 else torch.float32


class Ring:
    """One layer's full-precision tokens on the CPU: position p of a request lies at ``p % tokens`` of its slot's row.

    Args:
        slots: capacity of the pool; one more row is scratch.
        key_tokens, value_tokens: of :class:`vllm_kivi.config.KiviConfig`; no values are kept where that is 0.
        dtype: see :func:`ring_dtype`.

    Attributes:
        key, value: [slots + 1, H, key_tokens or value_tokens, D].
    """

    def __init__(
        self,
        slots: int,
        num_kv_heads: int,
        key_tokens: int,
        value_tokens: int,
        head_size: int,
        dtype: torch.dtype,
    ) -> None:
        def empty(tokens: int) -> torch.Tensor:
            # vLLM changes the default device while it loads a model.
            return torch.zeros(slots + 1, num_kv_heads, tokens, head_size, dtype=dtype, device="cpu")

        self.key_tokens, self.value_tokens = key_tokens, value_tokens
        self.key, self.value = empty(key_tokens), empty(value_tokens)

    @property
    def nbytes(self) -> int:
        return self.key.nbytes + self.value.nbytes

    def key_array(self) -> np.ndarray:
        """The keys as compiled kernels take them: NumPy has no bfloat16, so its bits as uint16."""
        return _array(self.key)

    def value_array(self) -> np.ndarray:
        """The values, likewise."""
        return _array(self.value)

    def write_keys(self, slots: torch.Tensor, positions: torch.Tensor, key: torch.Tensor) -> None:
        """Write keys: slots, positions int64 [n]; key [n, H, D]."""
        self.key[slots, :, positions % self.key_tokens] = key.to(self.key.dtype)

    def write_values(self, slots: torch.Tensor, positions: torch.Tensor, value: torch.Tensor) -> None:
        """Write values, likewise."""
        self.value[slots, :, positions % self.value_tokens] = value.to(self.value.dtype)

    def read_keys(self, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Float32 [..., H, D] keys of slots, positions int64 [...]."""
        return self.key[slots, :, positions % self.key_tokens].float()

    def read_values(self, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Float32 [..., H, D] values, likewise."""
        return self.value[slots, :, positions % self.value_tokens].float()


def _array(ring: torch.Tensor) -> np.ndarray:
    return ring.view(torch.uint16).numpy() if ring.dtype == torch.bfloat16 else ring.numpy()
