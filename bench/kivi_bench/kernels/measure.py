"""One figure: does the step compute what it should, and how long does it take."""

from __future__ import annotations

import gc
from typing import Any

import torch

from kivi_bench.kernels.shapes import Shape
from kivi_bench.kernels.subject import Step, Subject, UnsupportedError
from kivi_bench.kernels.timing import Timer

_SMALL = (2, 300)
"""Batch and context of the step that is compared with plain attention: several blocks, the last one not full."""

_REPEAT_TOLERANCE = 1e-2
"""Relative difference of two runs that is still an order of sums and no race."""


class WrongError(RuntimeError):
    """The implementation computes something else than attention."""


class Measurer:
    """Measures shapes of one subject; each ratio is compared with plain attention once."""

    def __init__(self, subject: Subject, timer: Timer, memory: int | None) -> None:
        self.subject, self.timer, self._memory = subject, timer, memory
        self._errors: dict[int, float | None] = {}

    def measure(self, shape: Shape) -> dict[str, Any]:
        """The result's entry without its names: status ``ok``, or ``skipped`` with the reason."""
        torch.cuda.empty_cache()
        held, room = self.subject.bytes_held(shape), self._room()
        if held > room:
            return {
                "status": "skipped",
                "reason": f"it takes {held / 2**30:.1f} GiB of the {room / 2**30:.1f} GiB that there are",
            }
        if shape.ratio not in self._errors:
            self._errors[shape.ratio] = self._compare(shape.ratio)
        step = self.subject.prepare(shape)
        repeat_error = _repeat(step)
        samples = self.timer.time(step.run)
        return {
            "status": "ok",
            "bytes": self.subject.bytes_read(shape),
            "samplesUs": [round(sample, 2) for sample in samples],
            "repeatError": repeat_error,
            "error": self._errors[shape.ratio],
        }

    def _room(self) -> int:
        # What other processes hold besides is theirs; a little is left for graphs and for what the driver takes.
        free = int(torch.cuda.mem_get_info()[0] * 0.95)
        return free if self._memory is None else min(free, self._memory)

    def _compare(self, ratio: int) -> float | None:
        """Relative error of a small step; None where other tests compare."""
        step = self.subject.prepare(Shape(*_SMALL, ratio))
        if step.expected is None:
            return None
        step.run()
        expected = step.expected()
        error = _relative(step.out.float(), expected)
        if not error <= self.subject.tolerance:
            raise WrongError(
                f"{error:.3g} relative error against plain attention, at most {self.subject.tolerance} is expected"
            )
        return error


def _repeat(step: Step) -> float:
    """Relative difference of two runs, 0 if they are equal to the bit."""
    step.run()
    first = step.out.float()
    step.out.fill_(float("nan"))
    step.run()
    second = step.out.float()
    if not bool(torch.isfinite(first).all()):
        raise WrongError("its output is not finite")
    error = _relative(second, first)
    if not error <= _REPEAT_TOLERANCE:
        raise WrongError(f"two runs differ by {error:.3g}")
    return error


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def failure(error: Exception) -> dict[str, Any]:
    """The entry of a shape that could not be measured, with the end of the traceback."""
    import traceback

    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    # A kernel's compiler may put its whole source into the message.
    reason = f"{type(error).__name__}: {str(error).strip()[:400]}"
    status = "unsupported" if isinstance(error, UnsupportedError) else "failed"
    return {"status": status, "reason": reason, "traceback": [line[:300] for line in lines[-12:]]}


def release() -> None:
    """Frees what an error's traceback or a cycle still held."""
    gc.collect()
    torch.cuda.empty_cache()
