"""The command line of ``kernels.py``; needs nothing but the environment whose kernels are measured."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kivi_bench.kernels import document as documents
from kivi_bench.kernels.catalog import BASELINE, DEFAULT, NAMES
from kivi_bench.kernels.session import Budget, Session, Settings
from kivi_bench.kernels.shapes import (
    BATCHES,
    CONTEXTS,
    HEAD_SIZE,
    KV_HEADS,
    MAX_MODEL_LEN,
    RATIOS,
    grid,
    parse_numbers,
)
from kivi_bench.kernels.worker import Order
from kivi_bench.kernels.worker import main as work

EXIT_USAGE = 2


def main(argv: list[str]) -> int:
    """Runs the benchmark, or one of its workers; the exit status is that of :func:`documents.exit_code`."""
    arguments = _parser().parse_args(argv)
    if arguments.worker is not None:
        return work(Order(**json.loads(arguments.worker)))
    if arguments.out is None:
        _parser().error("the following arguments are required: --out")
    return _run(arguments, argv)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    out = arguments.out.resolve()
    if not out.parent.is_dir():
        print(f"kernels.py: there is no folder {out.parent}", file=sys.stderr)
        return EXIT_USAGE
    shapes = tuple(grid(arguments.batches, arguments.contexts, arguments.ratios))
    names = arguments.only or DEFAULT
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="kivi-kernels-"))
    memory = None if arguments.memory_gib is None else int(arguments.memory_gib * 2**30)
    settings = Settings(
        out=out,
        logs=logs.resolve(),
        names=names,
        shapes=shapes,
        samples=arguments.samples,
        memory=memory,
        timeout=arguments.timeout_seconds,
        sources=arguments.sources,
        seed=arguments.seed,
    )
    about = {
        "headSize": HEAD_SIZE,
        "kvHeads": KV_HEADS,
        "maxModelLen": MAX_MODEL_LEN,
        "batches": list(arguments.batches),
        "contexts": list(arguments.contexts),
        "ratios": list(arguments.ratios),
        "baseline": BASELINE,
        "samples": arguments.samples,
        "memoryBytes": memory,
        "budgetSeconds": arguments.budget_seconds,
        "timeoutSeconds": arguments.timeout_seconds,
        "sources": arguments.sources,
        "seed": arguments.seed,
    }
    document = documents.new_document(argv, about, names, optional=arguments.only is None)
    session = Session(settings, document, Budget(arguments.budget_seconds), _say)
    session.run()
    print(documents.render_table(document))
    _say(f"saved in {out}, logs in {settings.logs}")
    return documents.exit_code(document)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kernels.py", description=__doc__)
    parser.add_argument("--out", type=Path, help="result file (JSON), rewritten after each figure")
    parser.add_argument("--only", type=_names, help=f"implementations: {','.join(NAMES)}")
    for name, default in (("batches", BATCHES), ("contexts", CONTEXTS), ("ratios", RATIOS)):
        parser.add_argument(f"--{name}", type=_numbers(name), default=default, help=f"default: {_list(default)}")
    parser.add_argument("--samples", type=_count, default=20, help="of each figure, default: 20")
    parser.add_argument("--memory-gib", type=_above_zero, help="for one shape, default: what is free")
    parser.add_argument("--budget-seconds", type=_above_zero, help="after which no further figure is begun")
    parser.add_argument("--timeout-seconds", type=_above_zero, default=180.0, help="of one figure, default: 180")
    parser.add_argument("--sources", action="store_true", help="measure this repository's kernels, not the installed")
    parser.add_argument("--seed", type=int, default=0, help="of random caches and queries, default: 0")
    parser.add_argument("--logs", type=Path, help="folder of the workers' logs, default: a temporary one")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _names(text: str) -> tuple[str, ...]:
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in asked)


def _numbers(what: str) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        try:
            return parse_numbers(text, what)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)
