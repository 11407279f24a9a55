"""Keeps one engine full for minutes, and says what it held and what memory it took.

usage: python test/gpu/full_load.py MODEL_FOLDER CACHE_DTYPE [MINUTES [LLM_ARGUMENTS_JSON]]

There are always more requests than may run, of mixed lengths, so that the pool fills and vLLM throws sequences out of
it. Random weights do: bytes and shapes are the real ones. Ends with one line of JSON; an out-of-memory error ends it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))

from inprocess import counter

LONGEST_PROMPT, LONGEST_ANSWER = 30000, 1024
WAITING = 32


def main() -> None:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM

    model, dtype = sys.argv[1:3]
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 10
    extra = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    llm = LLM(
        model=model, load_format="dummy", skip_tokenizer_init=True, kv_cache_dtype=dtype, max_model_len=34816,
        enable_prefix_caching=False, disable_log_stats=False, **extra,
    )  # fmt: skip
    print(json.dumps(keep_full(llm, minutes)), flush=True)


def keep_full(llm: Any, minutes: float, seed: int = 0) -> dict[str, Any]:
    """Load an in-process engine.

    Returns:
        Memory in bytes: ``allowed`` by --gpu-memory-utilization, ``allocated`` and ``reserved`` by PyTorch at most,
        ``used`` of the GPU.
    """
    import torch
    from vllm import SamplingParams

    rng, core = random.Random(seed), llm.llm_engine
    config = core.vllm_config
    most, allowed = config.scheduler_config.max_num_seqs, config.cache_config.gpu_memory_utilization
    vocabulary = config.model_config.get_vocab_size()
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    begin, asked, ended, generated, fullest, steps = time.monotonic(), 0, 0, 0, 0.0, 0
    while (passed := time.monotonic() - begin) < 60 * minutes:
        while core.get_num_unfinished_requests() < most + WAITING:
            prompt = rng.choices(range(10, vocabulary), k=rng.randint(100, LONGEST_PROMPT))
            answer = rng.randint(16, LONGEST_ANSWER)
            sampling = SamplingParams(max_tokens=answer, ignore_eos=True, detokenize=False)
            core.add_request(f"r{asked}", {"prompt_token_ids": prompt}, sampling)
            asked += 1
        for output in core.step():
            if output.finished:
                ended += 1
                generated += len(output.outputs[0].token_ids)
        steps += 1
        if steps % 20 == 0:
            fullest = max(fullest, counter(llm, "vllm:kv_cache_usage_perc"))
    free, total = torch.cuda.mem_get_info()
    return {
        "minutes": round(passed / 60, 2),
        "max_num_seqs": most,
        "tokens": config.cache_config.num_gpu_blocks * config.cache_config.block_size,
        "fullest": round(fullest, 4),
        "steps": steps,
        "requests_ended": ended,
        "tokens_generated": generated,
        "preemptions": counter(llm, "vllm:num_preemptions"),
        "allowed": int(allowed * total),
        "used": total - free,
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved_before": before,
        "reserved": torch.cuda.max_memory_reserved(),
    }


if __name__ == "__main__":
    main()
