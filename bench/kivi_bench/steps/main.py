"""The command line of ``steps.py``; needs a GPU and an environment with vLLM."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kivi_bench import machine
from kivi_bench.steps import loads, trace

GROUP = 128
TRACED = GROUP + 8
SHORT = 32, 128, 512
"""Tokens of prompts with which a step may take the host as long as the GPU."""


def main(argv: list[str]) -> int:
    """Measures one cache and writes the figures; the exit status is 0."""
    arguments = _parser().parse_args(argv)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the steps are this process's own
    llm = _engine(arguments)
    found: dict[str, Any] = {"cache": arguments.cache, "argv": argv, "machine": machine.describe()}
    found["ttft"] = _ttft(llm, arguments)
    found["short"] = {tokens: loads.first_token_seconds(llm, tokens, 0) for tokens in SHORT}
    _write(arguments.out, found)
    found["decode"] = []
    for batch, context in arguments.decode:
        found["decode"].append(_decode(llm, batch, context))
        _write(arguments.out, found)
    found["prefill"] = _prefill(llm, arguments)
    _write(arguments.out, found)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="steps.py", description=__doc__)
    parser.add_argument("model", help="folder with config.json; the weights are random")
    parser.add_argument("cache", help="vLLM's --kv-cache-dtype: auto, fp8, kivi_k4v4, ...")
    parser.add_argument("--out", type=Path, required=True, help="file for the figures, JSON")
    parser.add_argument("--prompt", type=int, default=30000, help="tokens of the prompt whose first token is timed")
    parser.add_argument("--chunk", type=int, default=2048, help="prompt tokens of a step, where they are chunked")
    parser.add_argument(
        "--decode", type=_shapes, default=_shapes("16x512,64x2048,256x2048"), help="batch x context, ..."
    )
    parser.add_argument("--memory", type=float, default=0.8, help="vLLM's --gpu-memory-utilization")
    return parser


def _shapes(text: str) -> list[tuple[int, int]]:
    pairs = [word.split("x") for word in text.split(",")]
    return [(int(batch), int(context)) for batch, context in pairs]


def _engine(arguments: argparse.Namespace) -> Any:
    from vllm import LLM

    return LLM(
        model=arguments.model, load_format="dummy", skip_tokenizer_init=True, kv_cache_dtype=arguments.cache,
        gpu_memory_utilization=arguments.memory, max_model_len=34816, max_num_batched_tokens=34816,
        max_num_seqs=max([batch for batch, _ in arguments.decode] + [16]) + 8,  # prompts that join the rows
        enable_prefix_caching=True,
    )  # fmt: skip


def _ttft(llm: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first token: in one step, in chunks, and with nine tenths restored."""
    tokens = arguments.prompt
    return {
        "tokens": tokens,
        "chunk": arguments.chunk,
        "fresh": loads.first_token_seconds(llm, tokens, 0),
        "chunked": loads.first_token_seconds(llm, tokens, arguments.chunk),
        "prefix_hit": loads.first_token_seconds(llm, tokens, 0, shared=0.9),
    }


def _decode(llm: Any, batch: int, context: int) -> dict[str, Any]:
    rows = loads.Decode(llm, batch, context, 3 * GROUP)
    seconds = rows.steps(GROUP)
    found = trace.kernels(loads.recorded(lambda: rows.steps(TRACED)))
    rows.finish()
    spread = loads.Decode(llm, batch, context, 2 * GROUP, spread=GROUP)
    as_they_come = spread.steps(GROUP)
    joined = spread.steps(GROUP // 2, joining=SHORT[0])
    spread.finish()
    layers = llm.llm_engine.vllm_config.model_config.get_num_layers(llm.llm_engine.vllm_config.parallel_config)
    return {
        "batch": batch,
        "context": context,
        "steps_ms": _milliseconds(seconds),
        "spread_steps_ms": _milliseconds(as_they_come),
        "joined_steps_ms": _milliseconds(joined),
        "closing": trace.closing(found, layers),
        "kernels": trace.shares(found, TRACED),
        "layer": trace.layer(found, layers),
    }


def _milliseconds(seconds: list[float]) -> list[float]:
    return [round(1e3 * each, 3) for each in seconds]


def _prefill(llm: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kernels of one fresh prompt in one step."""
    events = loads.recorded(lambda: loads.first_token_seconds(llm, arguments.prompt, 0, seed=1))
    prompts = 1 + loads.REPEATS
    found = trace.kernels(events)
    return {
        "tokens": arguments.prompt,
        "busy_us": trace.busy(found) / prompts,
        "store_share": trace.store_share(found),
        "kernels": trace.shares(found, prompts),
    }


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1))
