"""vLLM's own flags, which people write as for its server, as the keyword arguments of ``vllm.LLM``."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


class ArgumentsError(ValueError):
    """vLLM has no such flag, or not with this value; the message is its parser's."""


def keywords(words: Sequence[str], taken: Sequence[str]) -> dict[str, Any]:
    """What `words` say, read by the installed vLLM's own parser, and nothing that they do not say.

    Args:
        words: for example ``["--pipeline-parallel-size", "2"]``.
        taken: names of keyword arguments that have a value already.

    Raises:
        ArgumentsError: a word is none of vLLM's flags for an engine, its value does not fit, or its name is taken.
    """
    if not words:
        return {}
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ArgumentsError(f"vLLM's arguments for an engine: {message}")

    parser = EngineArgs.add_cli_args(Parser(add_help=False, allow_abbrev=False))  # type: ignore[no-untyped-call]
    # Defaults are not what somebody asked for, and would stand against the bench's own arguments.
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    found: dict[str, Any] = vars(parser.parse_args(list(words)))
    if twice := sorted(set(found) & set(taken)):
        raise ArgumentsError(f"vLLM's argument {twice[0]} is set by kivi bench itself")
    return found
