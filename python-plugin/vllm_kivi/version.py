"""The version of the distribution, as package.json has it, and the vLLM releases it was run with, as kivi has them."""

__version__ = "0.1.0"

VLLM_ON_GPU = ">=0.26,<0.27"

VLLM_ON_CPU = ("0.20.2", "0.22.1", "0.24.0", "0.26.0", "0.28.0", "0.30.0", "0.32.0")
"""Each stands for the releases that differ from it in the last number."""

REFUSED_ON_CPU = {
    "0.16": "in bfloat16 its logits are further from the reference than the engine tests allow",
    "0.18": "it starts only with libtcmalloc and libiomp in LD_PRELOAD, and brings neither along",
}
"""Minor releases that were tried, and why they are not supported."""
