"""LoRA on a GPU: requests with two adapters and without one in one batch, each against its own weights' oracle."""

from __future__ import annotations

from pathlib import Path

from adapters import RANK, adapt, write_adapter
from engines import check_by, open_engine, oracles
from models import TinyModel, write_checkpoint
from support import error_ratio, generated_logits, prompt, whole
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

MODEL = TinyModel(128, 2, 4)
LENGTHS = (1, 120, 128, 129, 257)


def test_adapters_share_a_batch_but_no_blocks(checkpoints: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(MODEL, checkpoints)
    pairs = [oracles(checkpoint, MODEL.head_size, "kivi_k4v4", "float16") for _ in range(3)]
    adapters: list[LoRARequest | None] = [None]
    for number in (1, 2):
        adapter, _same = (adapt(oracle.model, seed=number) for oracle in pairs[number])
        adapters.append(LoRARequest(f"adapter-{number}", number, str(write_adapter(adapter, tmp_path / str(number)))))
    asked = [({"prompt_token_ids": prompt(n, seed=60 + n)}, adapter) for n in LENGTHS for adapter in adapters]
    prompts, chosen = (list(part) for part in zip(*asked, strict=True))
    sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=-1)
    with open_engine(checkpoint, enable_lora=True, max_loras=2, max_lora_rank=RANK) as llm:
        miss, hit = (llm.generate(prompts, sampling, lora_request=chosen, use_tqdm=False) for _ in range(2))

    assert [output.num_cached_tokens for output in miss] == [0] * len(asked)
    assert [output.num_cached_tokens for output in hit] == [(n - 1) // 128 * 128 for n in LENGTHS for _ in adapters]
    for number, pair in enumerate(pairs):
        check_by(*pair, [*miss[number::3], *hit[number::3]])
    other = pairs[1][0].logits(whole(miss[0])[:-1])[len(miss[0].prompt_token_ids) - 1 :]
    assert error_ratio(generated_logits(miss[0]), other) > 0.3, "the adapter changes next to nothing: no power"
