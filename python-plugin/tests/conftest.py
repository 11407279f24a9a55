"""Tests of the plugin without an engine. They run against the sources beside them, on real vLLM."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before vLLM is imported: model folders are local, and a miss must not wait for a network
)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

settings.register_profile("plugin", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("plugin")


@pytest.fixture(scope="module")
def registered() -> None:
    """The plugin, as vLLM loads it in each of its processes."""
    import vllm_kivi

    vllm_kivi.register()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test puts its model."""
    return tmp_path / "model"


@pytest.fixture
def seeded() -> torch.Generator:
    """A generator of its own for each test, so that tests do not depend on their order."""
    return torch.Generator().manual_seed(20240205)
