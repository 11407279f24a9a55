"""Tests run on a GPU where there is one, else under Triton's interpreter; against this repository's sources."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_KERNELS = Path(__file__).resolve().parent.parent


def use_repository(interpret: bool) -> None:
    """Make ``vllm_kivi`` and ``vllm_kivi.kernels`` the repository's; call it before triton is imported.

    In the repository the kernels lie beside the plugin; in the installed package they are inside it.
    """
    os.environ["TRITON_INTERPRET"] = "1" if interpret else "0"
    plugin = str(_KERNELS.parent / "python-plugin")
    if plugin not in sys.path:
        sys.path.insert(0, plugin)
    spec = importlib.util.spec_from_file_location(
        "vllm_kivi.kernels", _KERNELS / "__init__.py", submodule_search_locations=[str(_KERNELS)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["vllm_kivi.kernels"] = package
    spec.loader.exec_module(package)


if "pytest" in sys.modules:
    import torch

    use_repository(interpret=not torch.cuda.is_available())
    torch.set_num_threads(min(torch.get_num_threads(), 2))  # the reference's steps are small; processes share the cores


def pytest_configure(config: pytest.Config) -> None:
    # Triton's interpreter turns one-element arrays into loop bounds in a way that NumPy deprecates.
    config.addinivalue_line("filterwarnings", "ignore:Conversion of an array with ndim > 0:DeprecationWarning:triton")
