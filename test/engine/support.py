"""What the engine tests share: prompts, logits out of an engine, the error measure, the oracle of a format."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from models import VOCABULARY
from oracle import Oracle

EXACT = 2e-5
"""RMS error ratio in float32 of most requests. Observed: 1e-6."""

ONE_CODE = 1e-2
"""And of any request: the engine and the oracle sum float32 in another order, so once in a few hundred thousand codes
one rounds to the other side; the logits after it move by up to 2e-3 (4 bits) or 4e-3 (2 bits) here. Quantization itself
moves them by 0.1 (k4v4) to 0.5 (k2v2), and reading one group exact instead of quantized, or the reverse, by 0.05."""


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def settings_of(cache_dtype: str, head_size: int, **settings: Any) -> dict[str, Any]:
    """The format as the oracle takes it."""
    from vllm_kivi.config import parse_config

    config = parse_config(cache_dtype, settings)
    return {**config.describe(), "value_group": config.value_group_for(head_size)}


def oracle_for(checkpoint: Path, cache_dtype: str, head_size: int, dtype: str = "float32", **settings: Any) -> Oracle:
    return Oracle(checkpoint, settings_of(cache_dtype, head_size, **settings), getattr(torch, dtype))


def error_ratio(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root mean square of the difference over that of the wanted values."""
    return ((got - want).pow(2).mean() / want.pow(2).mean()).sqrt().item()


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Each row less its mean: what logits and their log-probabilities have in common."""
    return logits - logits.mean(-1, keepdim=True)


def prompt_logits(output: Any) -> torch.Tensor:
    """[prompt length - 1, vocabulary] of a request that asked for all prompt log-probabilities, centred: for prompts
    vLLM 0.16 to 0.24 give log-probabilities, whatever the mode."""
    return centred(_dense(output.prompt_logprobs[1:]))


def generated_logits(output: Any) -> torch.Tensor:
    """[generated tokens, vocabulary]."""
    return _dense(output.outputs[0].logprobs)


def whole(output: Any) -> list[int]:
    """Prompt and generated tokens."""
    return [*output.prompt_token_ids, *output.outputs[0].token_ids]


def generated_error(output: Any, oracle: Oracle) -> float:
    """Error ratio of each generated token's logits against the oracle over the full sequence."""
    want = oracle.logits(whole(output)[:-1])[len(output.prompt_token_ids) - 1 :]
    got = generated_logits(output)
    assert got.shape == want.shape
    return error_ratio(got, want)


def check_errors(errors: list[float]) -> None:
    """All within one code's effect, and of four and more most exact."""
    assert errors
    assert max(errors) < ONE_CODE, errors
    assert len(errors) < 4 or statistics.median(errors) < EXACT, errors


def check_generated(outputs: list[Any], oracle: Oracle) -> None:
    """Every request's generated logits against the oracle."""
    check_errors([generated_error(output, oracle) for output in outputs])


def reports_in(log: str) -> list[dict[str, Any]]:
    """The report of each worker; the name that vLLM gives a worker's lines must agree with its rank."""
    found = []
    for line in log.splitlines():
        if "KIVI_REPORT " in line:
            found.append(json.loads(line.split("KIVI_REPORT ", 1)[1]))
            assert f"(Worker_TP{found[-1]['rank']} pid=" in line, line
    return sorted(found, key=lambda report: report["rank"])


def _dense(entries: list[dict[int, Any]]) -> torch.Tensor:
    return torch.tensor([[entry[token].logprob for token in range(VOCABULARY)] for entry in entries])
