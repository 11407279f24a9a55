"""Runs the plugin's start-up canary on the first GPU, as every worker does, and prints what came of it.

The kernels are compiled for a Llama-like layer (8 KV heads of 128, 32 query heads, bfloat16) and compared with the
plugin's reference. The answer is the line that starts with KIVI_CANARY.
"""

from __future__ import annotations

import json
import time
from typing import Any

CACHE = "kivi_k4v4"
HEAD_SIZE, KV_HEADS, QUERY_HEADS = 128, 8, 32


def run() -> dict[str, Any]:
    """How long each decode kernel took to compile and agree, in seconds, or why one did not."""
    try:
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        import torch

        from vllm_kivi.backend.gpu.canary import check_kernels
        from vllm_kivi.config import DEFAULT_BLOCK_SIZE, parse_config
        from vllm_kivi.kernels.nvrtc import compiler_works
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    config = parse_config(CACHE)
    layout = config.layout(HEAD_SIZE, max(DEFAULT_BLOCK_SIZE, config.key_group))
    device = torch.device("cuda", 0)
    seconds = {}
    for name, compiled in {"Triton": False, **({"CUDA": True} if compiler_works() else {})}.items():
        started = time.perf_counter()
        try:
            torch.cuda.set_device(device)
            check_kernels(config, layout, KV_HEADS, QUERY_HEADS, 1, torch.bfloat16, device, compiled)
            torch.cuda.synchronize()
        except Exception as error:
            return {"error": f"{name}: {type(error).__name__}: {error}"[:2000]}
        seconds[name] = round(time.perf_counter() - started, 1)
    return {"seconds": seconds}


if __name__ == "__main__":
    print("KIVI_CANARY " + json.dumps(run()), flush=True)
