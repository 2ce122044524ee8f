"""What an adversary increases: one value per row, larger is better for the attacker.

A loss is a function ``(logits (N, K), y (N,) int64, target (N,) int64) -> (N,)``. ``target`` is the class that the search
wants, or -1 where any wrong class will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

_TINY = 1e-12


def true_logit(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of the true class, (N,)."""
    return logits.gather(1, y[:, None])[:, 0]


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit of a wrong class, (N,)."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def _wanted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of the target, or of the best wrong class where there is no target, (N,)."""
    named = logits.gather(1, target.clamp_min(0)[:, None])[:, 0]
    return torch.where(target >= 0, named, best_other(logits, y))


def ce(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the true class; with a target, minus the cross-entropy of the target (Madry et al. 2018)."""
    log_p = logits.log_softmax(1)
    return torch.where(target >= 0, true_logit(log_p, target.clamp_min(0)), -true_logit(log_p, y))


def scaled_ce(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy on logits whose spread is scaled to 10, so that no scale of the logits can saturate it.

    The scale is held constant under differentiation. Departure from plain cross-entropy: logits times 1000 stop plain
    cross-entropy (its gradient underflows), and leave this one as it is.
    """
    spread = (logits.amax(1) - logits.amin(1)).detach().clamp_min(_TINY)
    # Cross-entropy ignores a shift; the largest logit at 0 keeps huge logits of no spread from overflowing.
    return ce((logits - logits.amax(1, keepdim=True).detach()) * (10 / spread)[:, None], y, target)


def margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``z_t - z_y``, t the target or the best wrong class (Carlini and Wagner 2017, section V, f_6 before its clamp)."""
    return _wanted(logits, y, target) - true_logit(logits, y)


def dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio: ``(z_t - z_y) / (z_(1) - z_(3))`` (Croce and Hein 2020, equation 6).

    Departures: with a target, t is the target; with two classes, where there is no third logit, it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, y, target)
    top = logits.topk(3, dim=1).values
    return margin(logits, y, target) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce and Hein 2020, equation 7).

    Departures: without a target, t is the best wrong class; with three classes the denominator is ``z_(1) - z_(3)``, with
    two classes it is 1.
    """
    if logits.shape[1] < 4:
        return dlr(logits, y, target)
    top = logits.topk(4, dim=1).values
    return margin(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def probability_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``p_t - p_y`` on softmax probabilities, t the target or the best wrong class (Ma et al. 2024, PMA)."""
    return margin(logits.softmax(1), y, target)


LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (ce, scaled_ce, margin, dlr, targeted_dlr, probability_margin)
}


def named(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UnknownName: no loss has it.
        BadValue: it is no name.
    """
    if not isinstance(name, str):
        raise BadValue(
            f"loss is {name!r}, and an attack takes the name of a loss",
            hint='for one of your own, holdfast.losses.LOSSES["mine"] = it, and then loss="mine"',
        )
    return pick("loss", name, LOSSES)


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """``KL(softmax(reference) || softmax(logits))`` per row, (N,): what TRADES increases (Zhang et al. 2019, equation 5).

    Both sides are taken through log-softmax: a probability that underflows to 0 gives no NaN.
    """
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)
