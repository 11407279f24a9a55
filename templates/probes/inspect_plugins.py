"""Prints the entry points of a group as a JSON list: name, value, owner, and which words the owner's code mentions.

Arguments: the group, then the words. Run with the environment's own interpreter; loads none of the entry points.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from typing import Any


def mentioned(distribution: importlib.metadata.Distribution, words: list[str]) -> list[str]:
    """The words that occur in the Python files that a distribution lists."""
    found: set[str] = set()
    for file in distribution.files or []:
        if file.suffix != ".py":
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        found.update(word for word in words if word in text)
    return sorted(found)


def describe(entry: importlib.metadata.EntryPoint, words: list[str]) -> dict[str, Any]:
    """One entry point; its owner by the normalized name (PEP 503)."""
    if entry.dist is None:
        return {"name": entry.name, "value": entry.value, "owner": "?", "claims": []}
    name = re.sub(r"[-_.]+", "-", entry.dist.name).lower()
    owner = f"{name} {entry.dist.version}"
    return {"name": entry.name, "value": entry.value, "owner": owner, "claims": mentioned(entry.dist, words)}


def main() -> None:
    group, *words = sys.argv[1:]
    json.dump([describe(entry, words) for entry in importlib.metadata.entry_points(group=group)], sys.stdout)


if __name__ == "__main__":
    main()
