"""A certified upper bound of the spectral norm of a convolution: that of a circular one that contains it.

Between zeros, windows see the same values as on a circle that is long enough for the zeros of one side to serve both. So the
layer is a sub-matrix of a circular convolution, whose norm is the largest over the frequencies: each is a small matrix, the
kernel's transform, which a stride joins with those of its aliases. On the circle of the images' own size, as the
transform is usually taken, the result is no bound.

Sources: Sedghi, Gupta and Long, "The singular values of convolutional layers" (ICLR 2019), section 2; Szegedy et al.,
"Intriguing properties of neural networks" (ICLR 2014), section 4.3, for strides: the factor is 1 / stride in two
dimensions, not its square as printed. Frequencies that cannot be the largest are left out by Gram iteration: Delattre et
al., "Efficient bound of Lipschitz constant for convolutional layers by Gram iteration" (ICML 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_ENTRIES = 1 << 22  # complex numbers at a time: 64 MiB
_SQUARINGS = 4  # overestimate by at most size ** (1 / 64), usually by a hundredth


def circle(size: int, outputs: int, extent: int, stride: int, before: int, after: int) -> int:
    """How many places a circle needs, a multiple of ``stride``, for a zero-padded convolution to be part of one on it.

    Args:
        size: the image's, without padding.
        outputs: how many windows there are.
        extent: a window's, with its holes.
        stride: from window to window.
        before, after: zeros on either side.
    """
    # The window's first places are told apart; no place beyond the image falls on it again, nor do the zeros before it.
    touched = (outputs - 1) * stride + extent
    return stride * math.ceil(max(before + size, touched - before, outputs * stride, 1) / stride)


def circular_norm(
    weight: Tensor, places: Sequence[int], *, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> float:
    """The spectral norm of the circular convolution: of a zero-padded one on `circle` an upper bound.

    Args:
        weight: (D, C / groups, ...) float64, one axis for each of ``places``.
        places: how many there are along each axis, multiples of ``stride``.
        stride, dilation: along each axis.
        groups: of channels that do not see one another.
    """
    axes, device = range(len(places)), weight.device
    modulus, factor = (torch.tensor(tuple(each), device=device) for each in (places, stride))
    fewer = modulus // factor
    holes = torch.tensor(tuple(dilation), device=device)
    taps = _grid(weight.shape[2:], device) * holes
    aliases = _grid(stride, device) * fewer
    # The weights are real, so that a frequency and its negative have the same norm: half of the last axis is enough.
    frequencies = _grid([*fewer[:-1].tolist(), int(fewer[-1]) // 2 + 1], device)
    rows, columns, num = weight.shape[0] // groups, weight.shape[1], len(aliases)
    kernel = weight.reshape(groups * rows * columns, -1).to(torch.complex128)
    largest = 0.0
    for some in frequencies.split(max(1, _ENTRIES // (groups * rows * columns * num))):
        waves = some[:, None] + aliases
        # Whole turns are left out in integers, where that is exact.
        turns = sum(((waves[..., a, None] * taps[:, a]) % modulus[a]).double() / places[a] for a in axes)
        assert isinstance(turns, Tensor)
        phases = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        found = torch.einsum("fat,kt->fka", phases, kernel) / math.sqrt(num)
        largest = largest_singular(found.reshape(-1, rows, columns * num), least=largest)
    return largest


def largest_singular(matrices: Tensor, *, least: float = 0.0) -> float:
    """The largest singular value of all of (B, m, n), or ``least`` where that is larger."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mH
    gram = matrices @ matrices.mH
    if len(gram) > 1:
        gram = gram[_may_exceed(gram, least)]
    if not len(gram):
        return least
    return max(least, math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[:, -1].max()))))


def _may_exceed(gram: Tensor, least: float) -> Tensor:
    """Which of the (B, m, m) may have the largest eigenvalue of all, where that exceeds ``least`` squared.

    For P = G^(2^t), |P|_F^2 / tr P <= |P|_2 <= |P|_F: brackets of the eigenvalue that close as t grows.
    """
    tiny = torch.finfo(torch.float64).tiny
    size = torch.linalg.matrix_norm(gram).clamp_min(tiny)
    power, log = gram / size[:, None, None], size.log()
    for _ in range(_SQUARINGS):
        power = power @ power
        size = torch.linalg.matrix_norm(power).clamp_min(tiny)
        power, log = power / size[:, None, None], 2 * log + size.log()
    high = log / 2**_SQUARINGS
    trace = power.diagonal(dim1=1, dim2=2).real.sum(1).clamp_min(tiny)
    low = (log - trace.log()) / 2**_SQUARINGS
    return high >= max(float(low.max()), 2 * math.log(least) if least else -math.inf) - 1e-9


def _grid(sizes: Sequence[int], device: torch.device) -> Tensor:
    """All places of a grid, (n, axes) int64."""
    return torch.cartesian_prod(*(torch.arange(each, device=device) for each in sizes)).view(-1, len(sizes))
