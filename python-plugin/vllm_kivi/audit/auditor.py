"""Computes decoding rows of sampled steps again, outside of CUDA graphs, from the cache's own bytes.

A sequence that is watched has its whole blocks copied to the host when they are first seen complete; from then on the
reference reads the copy and the engine the page, so a page that changes under its owner shows as an error, as does a
kernel that computes wrongly or reads what is not the row's. What was stored wrongly before the first look does not show
(the start-up canary looks at that).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from vllm_kivi import reference
from vllm_kivi.audit.metrics import Figures, Publisher, metrics_folder
from vllm_kivi.audit.tap import Tap, audited_layer
from vllm_kivi.cache.staging import Slot, SlotPool
from vllm_kivi.settings import audit_rate

logger = logging.getLogger("vllm.vllm_kivi")

WATCHED = 4
"""Sequences at most that are watched at a time, and rows computed again in a sampled step."""

WORST = 1e6
"""What an error counts as that is larger, or not a number."""


class DecodeRow(NamedTuple):
    """The first token of a decoding row.

    Attributes:
        token: its index among the step's.
        slot: index of its request's slot.
        position: of the token in its sequence.
        block_ids: int [blocks], on any device.
    """

    token: int
    slot: int
    position: int
    block_ids: torch.Tensor


@dataclass
class _Watched:
    slot: Slot
    blocks: list[torch.Tensor] = field(default_factory=list)
    """Its complete blocks, uint8 [H, record bytes] each, as they were first seen."""


class Auditor:
    """Of one worker.

    Args:
        layer: the audited layer of vLLM; its ``impl`` has a tap, its ``kv_cache`` the pages.
        rate: of steps that decode, between 0 and 1.
    """

    def __init__(self, layer: Any, pool: SlotPool, rate: float, publisher: Publisher, seed: int = 0) -> None:
        self.layer, self.pool, self.rate, self.publisher = layer, pool, rate, publisher
        self.figures = Figures()
        self.built: Any = None
        """The metadata of the step that is being executed."""
        self._chance = random.Random(seed)
        self._watched: dict[str, _Watched] = {}
        self._lengths: dict[str, int] = {}
        self._failed = False

    def after_step(self, scheduler_output: Any) -> None:
        """Count a step, audit it if it is drawn, and publish. Never raises: an audit must not end a server."""
        built, self.built = self.built, None
        try:
            self._count(scheduler_output)
            if built is not None and self._chance.random() < self.rate:
                self._audit(self.layer.impl.decode_rows(built))
            self.publisher.publish(self.figures)
        except Exception:
            self.figures.failures += 1
            if not self._failed:  # once: the counter tells of the others
                self._failed = True
                logger.exception("KIVI audit failed; serving goes on, kivi_audit_failures_total counts")

    def _count(self, scheduler_output: Any) -> None:
        """Tokens held and groups closed, from what the scheduler sends."""
        new, again = scheduler_output.scheduled_new_reqs, scheduler_output.scheduled_cached_reqs
        computed = {request.req_id: request.num_computed_tokens for request in new}
        computed |= dict(zip(again.req_ids, again.num_computed_tokens, strict=True))
        group = self.layer.impl.layout.key_group
        for request, before in computed.items():
            length = before + scheduler_output.num_scheduled_tokens.get(request, 0)
            seen = max(self._lengths.get(request, before), before)
            self.figures.groups_closed += max(length // group - seen // group, 0)
            self._lengths[request] = length
        alive = self.pool.requests()
        self._lengths = {request: length for request, length in self._lengths.items() if request in alive}
        self.figures.tokens_held = sum(self._lengths.values())
        self.figures.staging_used, self.figures.staging_slots = self.pool.used, self.pool.capacity

    def _audit(self, rows: Iterable[DecodeRow]) -> None:
        owners = self.pool.owners()
        by_request = {owners[row.slot][0]: row for row in rows if row.slot in owners}
        if not by_request:
            return
        self.figures.steps += 1
        self._watch(list(by_request), dict(owners.values()))
        for request, watched in self._watched.items():
            row = by_request.get(request)
            if row is not None:
                self.figures.add(self._error(row, watched))

    def _watch(self, decoding: Sequence[str], slots: dict[str, Slot]) -> None:
        """Forget who ended (or started again, in another slot), and fill the places with rows of this step."""
        self._watched = {r: w for r, w in self._watched.items() if slots.get(r) is w.slot}
        candidates = [request for request in decoding if request not in self._watched]
        vacant = min(WATCHED - len(self._watched), len(candidates))
        for request in self._chance.sample(candidates, vacant):
            self._watched[request] = _Watched(slots[request])

    def _error(self, row: DecodeRow, watched: _Watched) -> float:
        """RMS error ratio of the layer's output for a row against the reference's."""
        impl, pages = self.layer.impl, self.layer.impl.pages_of(self.layer)
        config, layout, tap = impl.config, impl.layout, impl.tap
        assert isinstance(tap, Tap)
        position, count = row.position, row.position // layout.block_size + 1
        ids = row.block_ids[:count].long().to(pages.device)
        complete = position // layout.block_size  # by the tokens before this one, which no draft can take back
        watched.blocks += [block.cpu() for block in pages[ids[len(watched.blocks) : complete]]]
        blocks = [*watched.blocks[:complete], *pages[ids[complete:]].cpu()]
        floor = watched.slot.readable_from
        closed = reference.closed_keys(position, config.key_group, config.key_window, floor)
        rough = reference.rough_values(position, config.value_residual, config.value_window, floor)
        key = impl.staged_keys(row.slot, torch.arange(closed, position + 1))
        value = impl.staged_values(row.slot, torch.arange(rough, position + 1))
        want = reference.attend(
            layout,
            torch.stack(blocks),
            torch.arange(count),
            tap.query[row.token].cpu(),
            key.transpose(0, 1),
            value.transpose(0, 1),
            position + 1,
            impl.scale,
        )
        want = reference.rotate(want) if config.rotation else want
        return error_ratio(tap.out[row.token].float().cpu(), want)


def error_ratio(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root mean square of the difference over that of the wanted values, at most :data:`WORST`."""
    off, size = float((got - want).square().mean().sqrt()), float(want.square().mean().sqrt())
    if not math.isfinite(off):
        return WORST
    return min(off / max(size, 1e-9), WORST)


def start_audit(vllm_config: Any, pool: SlotPool) -> None:
    """Let a worker's steps be audited, if its configuration asks for that; once its cache is there."""
    layer = audited_layer(vllm_config)
    if layer is None:
        return
    from vllm.distributed import get_tensor_model_parallel_rank

    rank, engine = get_tensor_model_parallel_rank(), vllm_config.parallel_config.data_parallel_index
    labels = {"engine": str(engine), "rank": str(rank), "layer": layer.layer_name}
    rate = audit_rate(vllm_config)
    pool.auditor = Auditor(layer, pool, rate, Publisher(metrics_folder(), labels), seed=rank)
    logger.info("KIVI audit: %g of decode steps, layer %s", rate, layer.layer_name)
