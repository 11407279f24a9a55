"""The audit of a GPU's layer against kernels that were run: what it reads back of a step, and the error it finds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batches import Row, Step
from test_attend import K4V4, WINDOWED

from vllm_kivi import reference
from vllm_kivi.audit.auditor import Auditor
from vllm_kivi.audit.metrics import Publisher
from vllm_kivi.audit.tap import Tap
from vllm_kivi.backend.gpu.impl import KiviGpuImpl
from vllm_kivi.backend.gpu.metadata import KiviGpuMetadata
from vllm_kivi.cache.staging import SlotPool
from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.repeat import Repeat


def audited(step: Step) -> tuple[Auditor, KiviGpuMetadata]:
    """An auditor over a step's pages and rings; no engine, so the layer has only what the audit reads."""
    impl: Any = KiviGpuImpl.__new__(KiviGpuImpl)
    impl.config, impl.layout, impl.scale = step.config, step.layout, step.scale
    impl._rings, impl._workspace = step.rings, object()
    tokens, heads, head_size = step.fresh_query.shape
    impl.tap = Tap(tokens, heads, head_size, step.dtype, step.out.device)
    impl.tap.keep(reference.rotate(step.fresh_query.float()), step.out)
    pool = SlotPool(len(step.rows))
    with pool.step([], {str(slot): 0 for slot in range(len(step.rows))}):
        pass
    few = len(step.fresh_query)
    meta = KiviGpuMetadata(few, step.batch, None, few, 1, step.slot_mapping, None, None, Repeat())
    return Auditor(SimpleNamespace(impl=impl, kv_cache=step.pages), pool, 1.0, Publisher(None, {})), meta


@pytest.mark.parametrize("config", [K4V4, WINDOWED], ids=("k4v4", "windows"))
def test_rows_that_decode_are_found_sound_and_a_changed_page_is_not(config: KiviConfig) -> None:
    rows = [Row(126, 1), Row(127, 1), Row(0, 0), Row(300, 1)]
    step = Step(config, rows, 64, 1, 4, torch.float16).ready()
    step.run_few(2)
    auditor, meta = audited(step)
    impl = auditor.layer.impl
    found = impl.decode_rows(meta)
    assert [(row.token, row.position) for row in found] == [(0, 126), (1, 127), (2, 300)]
    auditor._audit(found)
    assert sum(auditor.figures.errors) == 3
    assert auditor.figures.error_max < 4e-3
    step.pages.copy_(step.pages.roll(1, 0))  # every page is now another one's
    step.run_few(2)
    impl.tap.keep(reference.rotate(step.fresh_query.float()), step.out)
    auditor._audit(found)
    assert auditor.figures.error_max > 0.05


def test_verification_is_audited_at_its_first_token() -> None:
    step = Step(WINDOWED, [Row(120, 6), Row(300, 4)], 64, 1, 2, torch.float16, drafts=5).ready()
    step.run_few(2)
    auditor, meta = audited(step)
    auditor._audit(auditor.layer.impl.decode_rows(meta))
    assert sum(auditor.figures.errors) == 2
    assert auditor.figures.error_max < 4e-3
