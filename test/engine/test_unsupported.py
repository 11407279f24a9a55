"""What a release other than 0.26 is refused with: nothing of it was run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from models import WindowedModel, write_checkpoint

from vllm_kivi.compat.facts import has_seams_of_0_26


@pytest.mark.skipif(has_seams_of_0_26(), reason="test_mixed.py: runs on this vLLM")
def test_layers_with_a_window_are_refused(checkpoints: Path, engine: Any) -> None:
    checkpoint = write_checkpoint(WindowedModel(64, 2, 3), checkpoints)
    with (
        pytest.raises(ValueError, match=r"KIVI refuses: .*with a sliding window.* no test covers on vLLM 0\.\d"),
        engine(checkpoint, kv_cache_dtype="kivi_k4v4"),
    ):
        pass
