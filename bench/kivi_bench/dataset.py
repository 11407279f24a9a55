"""The text of a data set, from the Hugging Face hub or a local folder, through their library ``datasets``."""

import os
from pathlib import Path
from typing import Any

from .text import sha256

# Between two rows, as perplexities of WikiText are usually reported.
_BETWEEN = "\n\n"


class DatasetError(ValueError):
    """There is no such text; `kind` is for programs, the message for people, `hint` says what to do."""

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


def load(name: str, config: str | None, split: str) -> Any:
    """The rows of a split, a ``datasets.Dataset``.

    Args:
        name: an id on the hub, or a folder that ``datasets.load_dataset`` takes.
        config: None where the data set has only one.
        split: may be a slice, as in ``test[:10%]``.

    Raises:
        DatasetError: ``datasets`` is missing, or it does not find this.
    """
    try:
        import datasets
    except ImportError as error:
        if error.name != "datasets":
            raise DatasetError(
                "datasets-broken", f"datasets cannot be imported: {error}", "Install it again."
            ) from error
        raise DatasetError("datasets-missing", "the library datasets is not installed", "Install it.") from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DatasetError("dataset-unknown", str(error), "Look its id up on the hub, or name a folder.") from error
    except ConnectionError as error:
        raise DatasetError("dataset-unreachable", _first_line(error), _OFFLINE) from error
    except (ValueError, OSError) as error:
        raise DatasetError("dataset-unreadable", _first_line(error), "Name it as NAME:CONFIG:SPLIT.") from error


_OFFLINE = (
    "Without a network (or with HF_HUB_OFFLINE=1) only what HF_HOME holds already can be read: load it once with a "
    "network, or name a folder or a text file."
)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def choose_column(features: dict[str, Any], column: str | None) -> str:
    """The column that holds the text: the one named, else ``text``, else the only one of strings.

    Raises:
        DatasetError: there is no such column, or there are several to choose from.
    """
    strings = [
        name for name, feature in features.items() if getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if column is None:
        column = "text" if "text" in strings or len(strings) != 1 else strings[0]
    if column not in strings:
        found = f"no column {column!r} of strings; those are {', '.join(strings) or 'missing'}"
        raise DatasetError("column-unknown", found, "Name one: NAME:CONFIG:SPLIT:COLUMN.")
    return column


def save_text(rows: Any, column: str | None, folder: Path) -> dict[str, Any]:
    """Writes the text of all rows to ``folder/SHA-256.txt``, and says what it is."""
    chosen = choose_column(rows.features, column)
    content = _BETWEEN.join(row for row in rows[chosen] if row is not None)
    digest = sha256(content)
    path = folder / f"{digest}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_text(content, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"path": str(path), "column": chosen, "rows": len(rows)}
