"""The saved result: one versioned JSON document, and its table."""

from __future__ import annotations

import json
import statistics
from datetime import datetime, timezone
from typing import Any

from kivi_bench.kernels.catalog import BASELINE, TITLES
from kivi_bench.kernels.plugin import REPOSITORY
from kivi_bench.kernels.shapes import COPY_BYTES, Shape

KIND = "kivi-kernels"
SCHEMA_VERSION = 1


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tool_version() -> str:
    """Of the kivi that this file came with."""
    try:
        return str(json.loads((REPOSITORY / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def new_document(argv: list[str], settings: dict[str, Any], names: tuple[str, ...], optional: bool) -> dict[str, Any]:
    """A result in which nothing has been measured.

    Args:
        names: of the implementations.
        optional: whether one that is not there is no finding, because nobody asked for it by name.
    """
    created = now()
    return {
        "kind": KIND,
        "schemaVersion": SCHEMA_VERSION,
        "tool": {"name": "kivi", "version": tool_version()},
        "createdAt": created,
        "updatedAt": created,
        "argv": argv,
        "settings": settings,
        "machine": None,
        "copy": None,
        "implementations": [
            {"name": name, "title": TITLES[name], "optional": optional, "status": "pending"} for name in names
        ],
        "measurements": [],
        "complete": False,
    }


def copy_entry(event: dict[str, Any]) -> dict[str, Any]:
    """The copy bandwidth (bytes/s, read and written) and the least time of any graph, with their samples."""
    return {
        "bytes": 2 * COPY_BYTES,
        "samplesUs": [round(sample, 2) for sample in event["samplesUs"]],
        "bytesPerSecond": round(2 * COPY_BYTES / (statistics.median(event["samplesUs"]) * 1e-6)),
        "floorUs": round(statistics.median(event["floorUs"]), 2),
    }


def entry(name: str, shape: Shape, answer: dict[str, Any], copy_rate: float | None) -> dict[str, Any]:
    """A measurement as the document holds it; `copy_rate` in bytes/s, read and written."""
    known = {"event", "elapsed", "contextLost"}
    found = {
        "implementation": name,
        "batch": shape.batch,
        "context": shape.context,
        "ratio": shape.ratio,
        **{key: value for key, value in answer.items() if key not in known},
    }
    if answer["status"] == "ok":
        microseconds = statistics.median(answer["samplesUs"])
        rate = answer["bytes"] / (microseconds * 1e-6)
        found["microseconds"] = round(microseconds, 2)
        found["bytesPerSecond"] = round(rate)
        found["copyShare"] = None if copy_rate is None else round(rate / copy_rate, 4)
    return found


def exit_code(document: dict[str, Any]) -> int:
    """0; 1 where something failed, was asked for and is not there, or where nothing could be measured.

    What did not fit or was left out for want of time is no finding: the document says so.
    """
    implementations, measurements = document["implementations"], document["measurements"]
    if not any(one["status"] == "ok" for one in measurements):
        return 1
    if any(one["status"] == "failed" for one in (*implementations, *measurements)):
        return 1
    return int(any(one["status"] == "unsupported" and not one["optional"] for one in implementations))


def render_table(document: dict[str, Any]) -> str:
    """Microseconds, share of the copy bandwidth, and the baseline's time over this one's; a line for each shape."""
    names = [one["name"] for one in document["implementations"]]
    loads: dict[tuple[int, int, int], dict[str, dict[str, Any]]] = {}
    for one in document["measurements"]:
        loads.setdefault((one["ratio"], one["context"], one["batch"]), {})[one["implementation"]] = one
    rows = [["gqa", "batch", "context", *names]]
    for (ratio, context, batch), found in sorted(loads.items()):
        base = found.get(BASELINE, {}).get("microseconds")
        rows.append([str(ratio), str(batch), str(context), *(_cell(found.get(name), base) for name in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    if document["copy"] is not None:
        lines.append(f"copy {document['copy']['bytesPerSecond'] / 1e12:.2f} TB/s, read and written")
    lines.append(f"cells: microseconds, share of the copy bandwidth, speed relative to {BASELINE}")
    lines += [
        f"{one['name']}: {one['status']}: {one['reason']}" for one in document["implementations"] if one.get("reason")
    ]
    told: set[tuple[str, str]] = set()
    for one in document["measurements"]:
        if one["status"] in ("failed", "unsupported") and (one["implementation"], one["reason"]) not in told:
            told.add((one["implementation"], one["reason"]))
            lines.append(f"{one['implementation']} {one['batch']}x{one['context']} gqa {one['ratio']}: {one['reason']}")
    return "\n".join(lines)


def _cell(one: dict[str, Any] | None, base: float | None) -> str:
    if one is None:
        return "-"
    if one["status"] != "ok":
        return str(one["status"])
    share = "" if one["copyShare"] is None else f" {100 * one['copyShare']:.0f}%"
    speed = "" if base is None else f" {base / one['microseconds']:.2f}x"
    return f"{one['microseconds']:.1f}{share}{speed}"
