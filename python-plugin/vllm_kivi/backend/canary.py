"""What the start-up canaries of all platforms share."""

from __future__ import annotations

import torch


class CanaryError(RuntimeError):
    """The kernels of this worker do not do what the reference says."""


def error_ratio(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root mean square of the difference over that of the wanted values."""
    return float(((got - want).pow(2).mean() / want.pow(2).mean()).sqrt())
