"""The version of the distribution, as package.json has it, and the vLLM releases it was run with, as kivi has them."""

__version__ = "{{version}}"

VLLM_ON_GPU = "{{supportedVllm}}"

VLLM_ON_CPU = ({{testedOnCpu}})
"""Each stands for the releases that differ from it in the last number."""

REFUSED_ON_CPU = {
{{refusedOnCpu}}
}
"""Minor releases that were tried, and why they are not supported."""
