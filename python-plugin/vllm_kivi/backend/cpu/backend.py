"""The attention backend class that vLLM sees on the CPU platform; one class for each format and head size."""

from __future__ import annotations

from typing import ClassVar

import torch

from vllm_kivi.backend.base import KiviBackend, subclass
from vllm_kivi.backend.cpu.impl import KiviCpuImpl
from vllm_kivi.backend.cpu.metadata import KiviMetadataBuilder


class KiviCpuBackend(KiviBackend):
    """Packed pages and compiled CPU kernels."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_impl_cls() -> type[KiviCpuImpl]:
        return KiviCpuImpl

    @staticmethod
    def get_builder_cls() -> type[KiviMetadataBuilder]:
        return KiviMetadataBuilder


def __getattr__(name: str) -> type[KiviBackend]:
    return subclass(KiviCpuBackend, name)
