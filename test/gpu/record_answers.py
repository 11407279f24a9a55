"""Record what the CPU backend answers, for test_smollm2.py: run on vLLM's CPU build with the plugin.

usage: python test/gpu/record_answers.py SMOLLM2_FOLDER [OUTPUT]

SMOLLM2_FOLDER is what bench/fetch_smollm2.py writes. Float32, so that the record is the backend's, not rounding's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TEXT = Path(__file__).parents[2] / "bench" / "data" / "opticks.txt"
RECORD = Path(__file__).parent / "data" / "smollm2-k4v4.json"
LENGTHS = (20, 100, 127, 128, 260, 400, 640, 900)
TOKENS = 96
CANDIDATES = 8


def main() -> None:
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    model = sys.argv[1]
    ids = AutoTokenizer.from_pretrained(model)(TEXT.read_text(encoding="utf-8")).input_ids
    prompts = [ids[2000 * i : 2000 * i + length] for i, length in enumerate(LENGTHS)]
    llm = LLM(model, kv_cache_dtype="kivi_k4v4", dtype="float32", max_model_len=1024, max_num_seqs=8, seed=0)
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=CANDIDATES)
    answers = []
    for output in llm.generate([{"prompt_token_ids": p} for p in prompts], sampling):
        answer = output.outputs[0]
        candidates = [
            {str(token): round(entry.logprob, 4) for token, entry in step.items()} for step in answer.logprobs
        ]
        answers.append({"prompt": output.prompt_token_ids, "answer": list(answer.token_ids), "logprobs": candidates})
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else RECORD
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(answers, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
