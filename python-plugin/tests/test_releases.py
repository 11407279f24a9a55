"""Which vLLM releases the plugin serves with; src/core/venv/supported.ts is asked the same in test/unit."""

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_kivi.compat.releases import why_untried
from vllm_kivi.version import REFUSED_ON_CPU, VLLM_ON_CPU


@pytest.mark.parametrize("version", [*VLLM_ON_CPU, "0.24.9+cpu", "v0.26.0rc1.dev3+gabc.cpu", "0!0.32"])
def test_what_was_run_on_the_cpu_and_its_kin_is_served(version: str) -> None:
    assert why_untried(version, cpu=True) is None


@pytest.mark.parametrize("version", ["0.25.0", "0.33.0", "1.0", "0.2.6", "0", "dev", ""])
def test_what_was_never_run_on_the_cpu_is_refused_with_what_was(version: str) -> None:
    reason = why_untried(version, cpu=True) or ""
    assert reason.startswith(f"vLLM {version}, a CPU build, was never run with KIVI; tested are 0.20, ")
    assert "kivi install --create PATH --device cpu" in reason


@pytest.mark.parametrize(("minor", "why"), REFUSED_ON_CPU.items())
def test_what_was_tried_in_vain_is_refused_with_the_reason(minor: str, why: str) -> None:
    assert f"was tried with KIVI and is not supported ({why})" in (why_untried(f"{minor}.1", cpu=True) or "")


@pytest.mark.parametrize("version", ["0.26.0", "0.26", "0.26.7+cu129"])
def test_one_minor_release_is_served_on_a_gpu(version: str) -> None:
    assert why_untried(version, cpu=False) is None


@pytest.mark.parametrize("version", ["0.24.0", "0.25.9", "0.27.0rc1", "0.28.0", "1.26", "dev"])
def test_any_other_is_refused_on_a_gpu_with_what_to_install(version: str) -> None:
    reason = why_untried(version, cpu=False)
    assert reason == f"vLLM {version} was never run with KIVI on a GPU: pip install 'vllm>=0.26,<0.27'"


FIRST_LOOK = """
import vllm
vllm.__version__ = "0.27.0"
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.model_executor.layers.attention.attention import Attention
before = [dict(vars(owner)) for owner in (GPUModelRunner, Attention)]
import vllm_kivi
vllm_kivi.register()
from vllm.config import CacheConfig
CacheConfig(cache_dtype="kivi_k4v4")  # known, so that it can be refused with the reason
assert [dict(vars(owner)) for owner in (GPUModelRunner, Attention)] == before
"""


def test_no_layer_and_no_model_runner_of_an_untried_vllm_is_touched() -> None:
    sources = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", FIRST_LOOK], cwd=sources, check=True, timeout=120)
