"""What the bf16 cell said, kept in a file for the cells that are compared with it."""

import dataclasses
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ReferenceMismatchError(ValueError):
    """There is no reference, or it is of other prompts; the message says which."""


@dataclass(frozen=True)
class Reference:
    """Prompts and what the reference made of them.

    Attributes:
        windows: scored texts, token ids, shape [windows, window].
        tokens: the likeliest next tokens of every scored position, the likeliest first, shape [positions, k], where
            positions = windows * (window - 1).
        logprobs: their log-probabilities in nats, shape [positions, k].
        prompts: token ids, shape [prompts, prompt tokens].
        answers: greedy answers to them, token ids, shape [prompts, new tokens].
    """

    windows: NDArray[np.int32]
    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    prompts: NDArray[np.int32]
    answers: NDArray[np.int32]


def write(path: Path, reference: Reference) -> str:
    """Writes an ``.npz`` archive, all of it or nothing, and returns the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {field.name: getattr(reference, field.name) for field in dataclasses.fields(reference)}
    np.savez_compressed(buffer, **arrays)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read(path: Path, windows: list[list[int]], prompts: list[list[int]]) -> tuple[Reference, str]:
    """The reference for these windows and prompts, with the SHA-256 of its file.

    Raises:
        ReferenceMismatchError: the file cannot be read, or is of other windows or prompts.
    """
    try:
        content = path.read_bytes()
        # Not unpickled: a file may come from anywhere. zipfile tells a damaged archive by many exceptions.
        with np.lib.npyio.NpzFile(io.BytesIO(content), own_fid=True, allow_pickle=False) as archive:
            reference = Reference(**{field.name: archive[field.name] for field in dataclasses.fields(Reference)})
    except Exception as error:
        raise ReferenceMismatchError(f"{path}: no reference of the bf16 cell: {error}") from error
    for name, own, its in (("windows", windows, reference.windows), ("prompts", prompts, reference.prompts)):
        if not np.array_equal(np.asarray(own), its):
            raise ReferenceMismatchError(f"{path}: the reference is of other {name}: its text or tokenizer differs")
    return reference, hashlib.sha256(content).hexdigest()
