"""Prints the KV caches that the installed vLLM knows, as a JSON list of the values of ``--kv-cache-dtype``.

Run with the environment's own interpreter. vLLM's source is read, not imported: that would take half a minute. The list
is empty where a vLLM keeps its names elsewhere; then only starting an engine tells.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

NAME = "CacheDType"


def literal_words(source: str) -> list[str]:
    """The words of ``CacheDType = Literal[...]`` at the top of a module."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(target, ast.Name) and target.id == NAME for target in targets):
            continue
        return [
            constant.value
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
        ]
    return []


def main() -> None:
    spec = importlib.util.find_spec("vllm")
    words: list[str] = []
    for folder in (spec.submodule_search_locations if spec else None) or []:
        module = Path(folder, "config", "cache.py")
        if module.is_file():
            words = literal_words(module.read_text(encoding="utf-8"))
    json.dump(words, sys.stdout)


if __name__ == "__main__":
    main()
