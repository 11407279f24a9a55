"""Random load on one engine of vLLM's CPU build, for as long as asked; ends with one line of JSON.

usage: npm run test:soak -- --minutes 60 [--seed 1] [--output FILE]

Rounds of arrivals, shared prefixes, aborts and a cache too small for all. After each, every answer is held against the
same engine's run of that request alone, and what the process holds is counted. Exit code 1 for an answer that differs
or anything that grew; the line says which.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # all that may grow is in this process

import torch
from conftest import open_engine
from growth import Held, at_rest, growth
from inprocess import counter, runner_of
from models import TinyModel, write_checkpoint
from schedules import drive, requests
from support import EXACT, ONE_CODE, centred, error_ratio, generated_logits, prompt_logits, whole

MODEL = TinyModel(64, 2, 4)
REQUESTS, SLOTS, BLOCKS = 8, 8, 9
"""Of a round: requests; sequences at a time; blocks of the cache, one of which vLLM keeps for itself."""


def error_alone(llm: Any, output: Any) -> float:
    """Error ratio of an answer's logits against those of the same tokens in a run of one request, nothing cached."""
    from vllm import SamplingParams

    assert llm.reset_prefix_cache()
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1)
    alone = llm.generate([{"prompt_token_ids": whole(output)}], sampling, use_tqdm=False)[0]
    assert not alone.num_cached_tokens
    return error_ratio(centred(generated_logits(output)), prompt_logits(alone)[len(output.prompt_token_ids) - 1 :])


def bytes_of_rings(llm: Any) -> int:
    layers = runner_of(llm).compilation_config.static_forward_context.values()
    return sum(layer.impl.ring.nbytes for layer in layers)


def one_round(llm: Any, number: int) -> tuple[dict[str, float], int, int]:
    """Errors of the answers by name, their tokens, and steps. What the answers took is free again when it returns."""
    answered, steps = drive(llm.llm_engine, requests(number, REQUESTS, 150), number)
    tokens = sum(len(output.outputs[0].token_ids) for output in answered.values())
    return {name: error_alone(llm, output) for name, output in answered.items()}, tokens, steps


def soak(llm: Any, minutes: float, seed: int) -> dict[str, Any]:
    """Rounds until the time is over; figures, with what went wrong under ``problems``."""
    begin, steps, errors, tokens = time.monotonic(), 0, [], 0
    rounds: list[Held] = []
    problems: list[str] = []
    while time.monotonic() - begin < 60 * minutes:
        number = seed + len(rounds)
        found, compared, taken = one_round(llm, number)
        tokens, steps = tokens + compared, steps + taken
        errors += found.values()
        problems += [
            f"round {number}, {name}: {error:.1e} from its run alone"
            for name, error in found.items()
            if not error < ONE_CODE
        ]
        rounds.append(at_rest(llm, lambda: bytes_of_rings(llm)))
        print(f"round {number}: {len(found)} answers, {rounds[-1]}", file=sys.stderr, flush=True)
    median = statistics.median(errors)
    if not median < EXACT:
        problems.append(f"half of the answers are {median:.1e} or more from their runs alone")
    preemptions, hits = (counter(llm, f"vllm:{name}") for name in ("num_preemptions", "prefix_cache_hits"))
    if not (preemptions and hits):
        problems.append("the load caused no preemption or no prefix hit: it shows nothing")
    try:
        figures, grown = growth(rounds)
    except ValueError as error:
        figures, grown = {}, [str(error)]
    return {
        "minutes": round((time.monotonic() - begin) / 60, 2),
        "seed": seed,
        "rounds": len(rounds),
        "requests": REQUESTS * len(rounds),
        "answers_compared": len(errors),
        "tokens_compared": tokens,
        "worst_error_ratio": max(errors),
        "median_error_ratio": median,
        "steps": steps,
        "preemptions": preemptions,
        "prefix_hit_tokens": hits,
        **figures,
        "problems": problems + grown,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Random load on vLLM's CPU build with a k4v4 cache.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a file for the line of JSON, beside standard output")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(MODEL, Path(folder))
        with (
            open_engine(
                checkpoint,
                kv_cache_dtype="kivi_k4v4",
                max_num_batched_tokens=150,
                max_num_seqs=SLOTS,
                num_gpu_blocks_override=BLOCKS,
            ) as llm,
            torch.inference_mode(),
        ):
            summary = soak(llm, arguments.minutes, arguments.seed)
    line = json.dumps(summary)
    if arguments.output:
        arguments.output.write_text(line + "\n")
    print(line, flush=True)
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
