"""Makes vLLM's configuration of an engine, as its server does before it loads anything, and prints what came of it.

Arguments: those of vLLM's server. Run with the environment's own interpreter. The answer is the line that starts with
KIVI_CONFIG; vLLM logs around it.
"""

from __future__ import annotations

import json
import sys
from typing import Any


class ArgumentsError(ValueError):
    """vLLM's own parser refuses the arguments."""


def refuse(message: str) -> None:
    """Stands in for the parser's way of ending the process."""
    raise ArgumentsError(message)


def configure(words: list[str]) -> Any:
    """vLLM's configuration for these arguments; raises whatever vLLM or the plugin does."""
    from vllm.plugins import load_general_plugins

    # Before the parser is made, which lists the cache dtypes.
    load_general_plugins()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    parser.error = refuse
    return AsyncEngineArgs.from_cli_args(parser.parse_args(words)).create_engine_config()


def describe(config: Any) -> dict[str, Any]:
    """What a reader must know of it; ``kivi_layers`` is null where KIVI is not asked for."""
    from vllm_kivi.settings import is_asked_for, kivi_layers

    cache, model = config.cache_config, config.model_config
    return {
        "cache_dtype": str(cache.cache_dtype),
        "block_size": cache.block_size,
        "prefix_caching": bool(cache.enable_prefix_caching),
        "quantization": model.quantization and str(model.quantization),
        "head_size": model.get_head_size(),
        "layers": model.get_num_layers(config.parallel_config),
        "kivi_layers": kivi_layers(config) if is_asked_for(config) else None,
    }


def inspect(words: list[str]) -> dict[str, Any]:
    """The configuration or, under ``error``, whose refusal it was and in which words."""
    try:
        return describe(configure(words))
    except ArgumentsError as error:
        return {"error": "arguments", "message": str(error)}
    except Exception as error:
        # A validation error of pydantic wraps the plugin's, and says more around it.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        refusal = [line for line in lines if "KIVI refuses" in line or "KIVI:" in line]
        if refusal:
            message = refusal[0].removeprefix("Value error, ").partition(" [type=")[0]
            return {"error": "refused", "message": message}
        return {"error": "vllm", "message": f"{type(error).__name__}: {' '.join(lines)}"[:2000]}


if __name__ == "__main__":
    print("KIVI_CONFIG " + json.dumps(inspect(sys.argv[1:]), default=str), flush=True)
