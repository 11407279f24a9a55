"""Triton kernels of the KIVI cache, one a file with its launcher; installed as ``vllm_kivi.kernels``.

Meaning of each: :mod:`vllm_kivi.reference`. Bytes of a page: :mod:`vllm_kivi.layout`, handed to every kernel as one
constexpr. Letters: ``B`` rows of a batch, ``N`` key groups, ``G`` tokens of a key group, ``T`` tokens of a block, ``H``
KV heads, ``Hq`` query heads, ``D`` channels of a head, ``M`` query rows of a tile, ``P`` codes of a byte.
"""

# ruff: noqa: N999
# The folder is named for what it holds; as a package it is vllm_kivi.kernels.
