"""The attention backend class that vLLM sees on CUDA; one class for each page size."""

from __future__ import annotations

from typing import ClassVar

import torch

from vllm_kivi.backend.base import KiviBackend, subclass
from vllm_kivi.backend.gpu.impl import KiviGpuImpl
from vllm_kivi.backend.gpu.metadata import KiviGpuMetadataBuilder


class KiviGpuBackend(KiviBackend):
    """Triton kernels over packed pages."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16]

    @staticmethod
    def get_impl_cls() -> type[KiviGpuImpl]:
        return KiviGpuImpl

    @staticmethod
    def get_builder_cls() -> type[KiviGpuMetadataBuilder]:
        return KiviGpuMetadataBuilder


def __getattr__(name: str) -> type[KiviBackend]:
    return subclass(KiviGpuBackend, name)
