"""The measured text as the model's tokenizer sees it."""

import hashlib
from pathlib import Path
from typing import Any


class TextError(ValueError):
    """The text cannot be scored; the message says why."""


def opening(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: a beginning-of-text token for Llama, nothing for others."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return [bos] if bos is not None and tokenizer.encode("a")[:1] == [bos] else []


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
