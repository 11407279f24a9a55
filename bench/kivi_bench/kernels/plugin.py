"""Finds the KIVI kernels: those of the installed plugin, or those of the repository that this file lies in."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


class PluginError(RuntimeError):
    """There are no kernels to measure."""


def use_plugin(sources: bool) -> Path:
    """Makes ``vllm_kivi.kernels`` importable and returns its folder; call it before ``vllm_kivi`` is imported.

    Args:
        sources: the repository's, whatever is installed. Otherwise they are only for an environment without the plugin.

    Raises:
        PluginError: neither is there.
    """
    kernels = REPOSITORY / "triton-kernels"
    if not sources:
        try:
            found = importlib.util.find_spec("vllm_kivi.kernels")
        except ModuleNotFoundError:
            found = None
        if found is not None and found.origin is not None:
            return Path(found.origin).parent
    if not (kernels / "attend.py").is_file():
        raise PluginError("the KIVI plugin is not installed, and no sources of its kernels lie beside bench/")
    # In the repository the kernels lie beside the plugin, in an installed package inside it.
    sys.path.insert(0, str(REPOSITORY / "python-plugin"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm_kivi"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "vllm_kivi.kernels", kernels / "__init__.py", submodule_search_locations=[str(kernels)]
    )
    if spec is None or spec.loader is None:
        raise PluginError(f"{kernels} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules["vllm_kivi.kernels"] = package
    spec.loader.exec_module(package)
    return kernels


def digest(folder: Path) -> str:
    """Of all sources of the kernels: two results with equal digests measured the same kernels."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *folder.glob("cuda/*.cu*")]):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]
