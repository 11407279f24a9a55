"""vLLM as users run it: engine core and worker spawned, the plugin found by its entry point, no variables set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from models import TinyModel, write_checkpoint
from oracle import Oracle
from support import check_generated, error_ratio, generated_logits, oracle_for, prompt, whole
from vllm import SamplingParams

MODEL = TinyModel(64, 2, 3)

SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
def main():
    checkpoint, prompt, target = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    settings = {"key_window": 24, "value_window": 16}
    llm = LLM(checkpoint, kv_cache_dtype="kivi_k4v4", additional_config={"kivi": settings}, dtype="float32",
              skip_tokenizer_init=True, enforce_eager=True, max_model_len=512, max_num_seqs=4,
              kv_cache_memory_bytes=32 << 20)
    sampling = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    output = llm.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)[0]
    json.dump(output.outputs[0].token_ids, open(target, "w"))
if __name__ == "__main__":
    main()
"""


def test_spawned_processes_get_the_settings(checkpoints: Path, tmp_path: Path) -> None:
    """Settings reach the spawned worker through the engine's configuration alone, and its answer is the oracle's."""
    checkpoint, tokens = write_checkpoint(MODEL, checkpoints), prompt(230, seed=17)
    script, target = tmp_path / "run.py", tmp_path / "tokens.json"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_") and "KIVI" not in k}
    done = subprocess.run(
        [sys.executable, str(script), str(checkpoint), json.dumps(tokens), str(target)],
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    reports = [line for line in done.stdout.splitlines() if "KIVI_REPORT " in line]
    assert len(reports) == 1
    assert "Worker" in reports[0]
    report = json.loads(reports[0].split("KIVI_REPORT ", 1)[1])
    assert (report["preset"], report["layers"], report["staging_slots"]) == ("k4v4", 2, 4)
    assert (report["key_window"], report["value_window"]) == (24, 16)
    assert report["bytes_per_token"] == 68.5 * MODEL.kv_heads * MODEL.layers
    assert (
        report["tokens"]
        == report["num_blocks"] * 128
        == ((32 << 20) - report["staging_bytes"]) // report["page_bytes"] * 128
    )
    generated = json.loads(target.read_text())
    oracle = oracle_for(checkpoint, "kivi_k4v4", MODEL.head_size, key_window=24, value_window=16)
    best = oracle.logits([*tokens, *generated])[len(tokens) - 1 : -1].argmax(-1).tolist()
    assert generated == best


def test_without_kivi_vllm_is_untouched(checkpoints: Path, engine: Any) -> None:
    """With the plugin loaded but not asked for: vLLM's own backend, spec and block count, and exact attention."""
    from conftest import MEGABYTE
    from inprocess import runner_of, scheduler_of
    from vllm.plugins import load_general_plugins
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from vllm_kivi import status

    load_general_plugins()
    assert status()["registered"]
    checkpoint = write_checkpoint(MODEL, checkpoints)
    with engine(checkpoint) as llm:
        runner, config = runner_of(llm), scheduler_of(llm).kv_cache_config
        assert not hasattr(runner, "kivi_slots")
        assert {layer.attn_backend for layer in runner.compilation_config.static_forward_context.values()} == {
            CPUAttentionBackend
        }
        assert {type(group.kv_cache_spec) for group in config.kv_cache_groups} == {FullAttentionSpec}
        assert config.num_blocks == 64 * MEGABYTE // (MODEL.layers * 2 * 128 * MODEL.kv_heads * MODEL.head_size * 4)
        sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=-1)
        output = llm.generate([{"prompt_token_ids": prompt(260, seed=3)}], sampling, use_tqdm=False)[0]
    check_generated([output], Oracle(checkpoint, None))
    quantized = oracle_for(checkpoint, "kivi_k4v4", MODEL.head_size).logits(whole(output)[:-1])[259:]
    assert error_ratio(generated_logits(output), quantized) > 0.03
