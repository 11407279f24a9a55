"""Which releases of vLLM KIVI was run with; imports neither torch nor vLLM.

By version string, unlike everything else that differs between versions: what nobody has tried cannot be probed for.
"""

from __future__ import annotations

import re

from vllm_kivi.version import REFUSED_ON_CPU, VLLM_ON_CPU, VLLM_ON_GPU


def why_untried(version: str, cpu: bool) -> str | None:
    """Why a vLLM release is refused, and what to install instead; None for one that KIVI was run with.

    Suffixes (``+cpu``, ``rc1``, ``.dev3``) do not count: a build made from that release's branch has its interfaces. A
    version without numbers counts as never run.

    Args:
        version: ``vllm.__version__``.
        cpu: of vLLM's CPU build; else of its GPU build.
    """
    release = _release(version)
    if not cpu:
        if release and _in_range(release, VLLM_ON_GPU):
            return None
        return f"vLLM {version} was never run with KIVI on a GPU: pip install 'vllm{VLLM_ON_GPU}'"
    tested = [_release(one)[:2] for one in VLLM_ON_CPU]
    if release[:2] in tested:
        return None
    names = ", ".join(f"{major}.{minor}" for major, minor in tested)
    reason = REFUSED_ON_CPU.get(".".join(map(str, release[:2])))
    found = "was never run with KIVI" if reason is None else f"was tried with KIVI and is not supported ({reason})"
    return f"vLLM {version}, a CPU build, {found}; tested are {names}: kivi install --create PATH --device cpu"


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version; none where it is unreadable."""
    match = re.match(r"(?:\d+!)?v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(number) for number in match[1].split(".")) if match else ()


def _in_range(release: tuple[int, ...], bounds: str) -> bool:
    """``bounds``: such as ``>=0.26,<0.27``."""
    return all(
        (release >= _release(bound[2:])) if bound.startswith(">=") else (release < _release(bound[1:]))
        for bound in bounds.split(",")
    )
