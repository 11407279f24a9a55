"""The Hadamard rotation of heads, and its undoing; ``reference.rotate`` says which.

It is its own inverse. Rotating is butterflies in float32; rotating back what was dequantized is a product on tensor
cores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.reference import hadamard


@triton.constexpr_function
def hadamard_order(HEAD_SIZE):
    """The largest power of two that divides the head size: the block of reference.hadamard."""
    return HEAD_SIZE & -HEAD_SIZE


@triton.constexpr_function
def log2(X):
    """Of a power of two."""
    return X.bit_length() - 1


@triton.jit
def rotate(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEAD_SIZE: tl.constexpr):
    """Orthonormal Hadamard transform of each row of x, f32 [ROWS, COLUMNS]; columns past HEAD_SIZE must be 0.

    Butterflies in float32; the meaning is reference.rotate, the sums are in another order.
    """
    ORDER: tl.constexpr = hadamard_order(HEAD_SIZE)
    for i in tl.static_range(log2(ORDER)):
        pairs = tl.permute(tl.reshape(x, [ROWS, COLUMNS // (2 << i), 2, 1 << i]), [0, 1, 3, 2])
        a, b = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(a + b, a - b), [0, 1, 3, 2]), [ROWS, COLUMNS])
    return x * (ORDER**-0.5)


def rotation_matrix(head_size: int, device: torch.device | str) -> torch.Tensor:
    """The rotation without its factor ORDER^-0.5: float16 [D, D] of 1, -1 and, between blocks, 0; its own inverse."""
    return hadamard(head_size).sign().to(device, torch.float16)


@triton.constexpr_function
def splits_evenly(WIDTH, HEAD_SIZE):
    """Whether a head's rotation is butterflies of its parts and then one inside each: it is 2^n channels, parts are 16
    or more."""
    return HEAD_SIZE & (HEAD_SIZE - 1) == 0 and WIDTH >= 16  # the least that tl.dot takes


@triton.constexpr_function
def padded_width(WIDTH):
    """Channels of a part that :func:`store_unrotated` takes: what tl.arange and tl.dot can."""
    return max(triton.next_power_of_2(WIDTH), 16)


@triton.jit
def _finite_halves(x, TRANSPOSE: tl.constexpr):
    """Float16 of x: the format keeps what it dequantizes within it, and 2^-12 is what operands are rounded by."""
    halves = tl.minimum(tl.maximum(x, -65504.0), 65504.0).to(tl.float16)
    return tl.trans(halves) if TRANSPOSE else halves


@triton.jit
def _butterflies(x):
    """Rotate 2 or 4 parts to one another; their mean, not their sum, so that none grows."""
    if len(x) == 2:
        return (x[0] + x[1]) * 0.5, (x[0] - x[1]) * 0.5
    else:  # noqa: RET505 -- Triton compiles what follows a branch that returns
        tl.static_assert(len(x) == 4)
        a, b, c, d = (x[0] + x[1]) * 0.25, (x[0] - x[1]) * 0.25, (x[2] + x[3]) * 0.25, (x[2] - x[3]) * 0.25
        return a + c, b + d, a - c, b - d


@triton.jit
def store_unrotated(
    to, x, rotation, WIDTH: tl.constexpr, HEAD_SIZE: tl.constexpr, ROTATE: tl.constexpr, TRANSPOSED: tl.constexpr
):
    """Write heads of tokens, rotated back if ROTATE, to pointers [TOKENS].

    Args:
        x: a tuple of a head's parts, f32 [TOKENS, WIDTH padded], or [WIDTH padded, TOKENS] where TRANSPOSED. Past
            WIDTH anything but NaN: the rotation is 0 there.
        rotation: of :func:`rotation_matrix`.
    """
    SIZE: tl.constexpr = padded_width(WIDTH)
    t, j = tl.arange(0, to.shape[0])[:, None], tl.arange(0, SIZE)[None, :]
    live = (t >= 0) & (j < WIDTH)
    if ROTATE and splits_evenly(WIDTH, HEAD_SIZE):
        part = tl.load(rotation + tl.trans(j) * HEAD_SIZE + j)
        y = _butterflies(x)
        for i in tl.static_range(len(y)):
            turned = tl.dot(_finite_halves(y[i], TRANSPOSED), part) * (len(y) * HEAD_SIZE**-0.5)
            tl.store(to[:, None] + i * WIDTH + j, turned.to(to.dtype.element_ty), mask=live)
    elif ROTATE:
        COLUMNS: tl.constexpr = triton.next_power_of_2(HEAD_SIZE)
        c = tl.arange(0, COLUMNS)[None, :]
        acc = tl.zeros([to.shape[0], COLUMNS], tl.float32)
        for i in tl.static_range(len(x)):
            at = rotation + (i * WIDTH + tl.trans(j)) * HEAD_SIZE + c
            rows = tl.load(at, mask=tl.trans(j < WIDTH) & (c < HEAD_SIZE), other=0.0)
            acc = tl.dot(_finite_halves(x[i], TRANSPOSED), rows, acc)
        turned = acc * hadamard_order(HEAD_SIZE) ** -0.5
        tl.store(to[:, None] + c, turned.to(to.dtype.element_ty), mask=(t >= 0) & (c < HEAD_SIZE))
    else:
        for i in tl.static_range(len(x)):
            plain = tl.trans(x[i]) if TRANSPOSED else x[i]
            tl.store(to[:, None] + i * WIDTH + j, plain.to(to.dtype.element_ty), mask=live)
