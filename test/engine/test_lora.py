"""LoRA: requests with two adapters and without one in one batch, each against the oracle of its own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import RANK, adapt, write_adapter
from models import TinyModel, write_checkpoint
from support import check_generated, generated_error, oracle_for, prompt
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

MODEL = TinyModel(64, 2, 3)
LENGTHS = (1, 120, 128, 129, 257)
"""With 20 tokens of answer: hits of nothing, one and two blocks, and decode over the edge at 128."""

SLOTS = 3
"""One more than there are adapters: on the CPU, vLLM 0.26.0 looks a request without an adapter up at -1, the last slot,
and would answer it with the adapter there (vllm-project/vllm#48421); an empty slot adds nothing."""


def test_adapters_share_a_batch_but_no_blocks(checkpoints: Path, tmp_path: Path, engine: Any) -> None:
    """The same prompts with each adapter and with none, twice: each finds its own blocks and never another's."""
    checkpoint = write_checkpoint(MODEL, checkpoints)
    oracles = [oracle_for(checkpoint, "kivi_k4v4", MODEL.head_size) for _ in range(SLOTS)]
    adapters: list[LoRARequest | None] = [None]
    for number in range(1, SLOTS):
        folder = write_adapter(adapt(oracles[number].model, seed=number), tmp_path / str(number))
        adapters.append(LoRARequest(f"adapter-{number}", number, str(folder)))
    asked = [({"prompt_token_ids": prompt(n, seed=60 + n)}, adapter) for n in LENGTHS for adapter in adapters]
    prompts, chosen = (list(part) for part in zip(*asked, strict=True))
    sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=-1)
    with engine(
        checkpoint,
        kv_cache_dtype="kivi_k4v4",
        enable_lora=True,
        max_loras=SLOTS,
        max_lora_rank=RANK,
        max_num_seqs=len(asked),
        max_num_batched_tokens=2048,
    ) as llm:
        miss, hit = (llm.generate(prompts, sampling, lora_request=chosen, use_tqdm=False) for _ in range(2))

    assert [output.num_cached_tokens for output in miss] == [0] * len(asked)
    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS for _ in adapters]
    for number, oracle in enumerate(oracles):
        check_generated([*miss[number::SLOTS], *hit[number::SLOTS]], oracle)
    error = generated_error(miss[0], oracles[1])
    assert error > 0.1, "the adapter changes next to nothing: the test has no power"
