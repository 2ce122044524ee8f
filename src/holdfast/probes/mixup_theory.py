"""What the theory of mixup inference says of a model: why mixing an adversarial image may repair or reveal it.

Notation of Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), section 3: x0 is clean and classified as its label y, x = x0 +
delta is classified as yhat != y, F are the probabilities, xt = lam x + (1 - lam) x_s a mixture with a pool image x_s of the
label y_s: the predicted class (PL) or one of the L - 1 others (OL). G_k(delta; x0) is what the perturbation adds to F_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.ascent.mixtures import mixtures
from holdfast.ascent.search_copy import search_copy
from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.stats import Interval, wilson
from holdfast.imaging.partners import stratified
from holdfast.imaging.pool import Pool
from holdfast.probes.clustered import clustered

NAME = keys.number("mixup theory")
GRID = tuple(tenth / 10 for tenth in range(11))

Curve = tuple[Interval, ...]
"""One figure for each lam, a mean over images with its interval."""


@dataclass(frozen=True)
class Gaps:
    """How much of a perturbation's effect mixing takes away: ``y`` is G_y(lam delta; x~0) - G_y(delta; x0), the gain of the
    true class; ``yhat`` is G_yhat(delta; x0) - G_yhat(lam delta; x~0), the loss of the predicted one."""

    y: Curve
    yhat: Curve


@dataclass(frozen=True)
class Mixing:
    """The figures of one kind of partners, MI-PL's or MI-OL's; one entry for each lam.

    Args:
        clean: F_y(xt) of the clean images, whose predicted class is y.
        y, yhat: F_y(xt) and F_yhat(xt) of the adversarial images.
        delta_clean: F_y(xt) - F_y(x0) of the clean images.
        delta_y, delta_yhat: F_k(xt) - F_k(x) of the adversarial images.
        improves: the robustness improving condition (equation 10): the mean of delta_y is above 0, that of delta_yhat below.
            It is a direction: the answer need not become right, and models without mixup training may satisfy it as well.
        improved: the share of images for which it holds one by one.
        detection_gap: delta_clean - delta_yhat, by how much more the confidence of adversarial images falls: equation 11
            with the sign changed, so that a positive one detects.
        published: the gaps as the paper's figure 2 estimates them, which takes F for linear between clean images.
        paired: the gaps by their definition, with the same partners for x and for x0.
        threshold_y, threshold_yhat: what the gaps must exceed for the condition to follow (equations 12 and 15).
        margin: F_y - max_{k != y} F_k of the averaged output on the adversarial images.
        recovered: the share of images whose margin is positive: what mixing repairs, at last.
    """

    clean: Curve
    y: Curve
    yhat: Curve
    delta_clean: Curve
    delta_y: Curve
    delta_yhat: Curve
    improves: tuple[bool, ...]
    improved: Curve
    detection_gap: Curve
    published: Gaps
    paired: Gaps
    threshold_y: tuple[float, ...]
    threshold_yhat: tuple[float, ...]
    margin: Curve
    recovered: Curve


@dataclass(frozen=True)
class MixupTheory:
    """The figures of a model: ``n`` images that are right when clean and wrong when attacked, of ``given``.

    ``clean`` is F_y(x0), ``y`` and ``yhat`` are F_y(x) and F_yhat(x), without mixing. ``draws``: mixtures of each image.
    """

    lam: tuple[float, ...]
    n: int
    given: int
    draws: int
    clean: Interval
    y: Interval
    yhat: Interval
    pl: Mixing
    ol: Mixing


def mixup_theory(
    model: Classifier,
    x0: Tensor,
    x: Tensor,
    y: Tensor,
    pool: Pool,
    *,
    lam: Sequence[float] = GRID,
    num_draws: int = 30,
    seed: int = 0,
    confidence: float = 0.95,
) -> MixupTheory:
    """The theory's quantities on any model; every lam and both images of a pair share their partners.

    The theory takes clean for rightly classified (equation 2): pairs that are not so before and after the attack are left
    out. Costs 6 ``num_draws`` forwards for each pair and lam.

    Args:
        model: images in [0, 1] -> logits (., L).
        x0: clean images, (n, C, H, W).
        x: adversarial ones, likewise.
        y: true labels, (n,) int64.
        pool: clean images of the same L classes, on any device.
        lam: a grid in [0, 1].
        num_draws: partners of each image: stratified, without replacement.
        seed: of the draws.
        confidence: of the intervals, Student's over images (Wilson's for shares).

    Raises:
        BadData: no pair is left, or the pool has other classes.
        BadValue: a lam outside [0, 1], or ``num_draws`` below 1.
    """
    if not lam or not all(0 <= each <= 1 for each in lam) or num_draws < 1:
        raise BadValue(
            f"lam is {tuple(lam)}, num_draws {num_draws}", hint="give shares in [0, 1], and at least one draw"
        )
    pool = pool.to(x.device)
    with frozen(model), torch.no_grad():
        quick = search_copy(model, x0[:32]).module
        before, after = quick(x0).softmax(1), quick(x).softmax(1)
        if before.shape[1] != len(pool.counts):
            raise BadData(
                f"the model has {before.shape[1]} classes, the pool {len(pool.counts)}",
                hint="take the pool from the model's own training data",
            )
        keep = ((before.argmax(1) == y) & (after.argmax(1) != y)).nonzero()[:, 0]
        if not len(keep):
            raise BadData(
                f"none of {len(y)} images is right when clean and wrong when attacked",
                hint="attack with a larger radius, or take images that the model knows",
            )
        key = keys.fold(keys.fold(keys.root(seed, device=x.device), NAME), keep)
        pair = _Pair(x0[keep], x[keep], y[keep], after[keep].argmax(1), before[keep], after[keep])
        return MixupTheory(
            lam=tuple(lam),
            n=len(keep),
            given=len(y),
            draws=num_draws,
            clean=_curve(pair.of_y(pair.before)[None], confidence)[0],
            y=_curve(pair.of_y(pair.after)[None], confidence)[0],
            yhat=_curve(pair.of_yhat(pair.after)[None], confidence)[0],
            pl=_mixing(quick, pair, pool, lam, key, num_draws, confidence, others=False),
            ol=_mixing(quick, pair, pool, lam, key, num_draws, confidence, others=True),
        )


@dataclass(frozen=True)
class _Pair:
    """Clean and adversarial images, the true and the predicted class, and F of both without mixing, (n, L).

    ``of_y`` and ``of_yhat`` take (n, L) to (n,), or (G, n, L) to (G, n).
    """

    x0: Tensor
    x: Tensor
    y: Tensor
    yhat: Tensor
    before: Tensor
    after: Tensor

    def of_y(self, f: Tensor) -> Tensor:
        return _column(f, self.y)

    def of_yhat(self, f: Tensor) -> Tensor:
        return _column(f, self.yhat)


def _column(f: Tensor, label: Tensor) -> Tensor:
    return f[..., torch.arange(len(label), device=label.device), label]


def _mixing(
    model: Classifier,
    pair: _Pair,
    pool: Pool,
    grid: Sequence[float],
    key: Tensor,
    num: int,
    confidence: float,
    *,
    others: bool,
) -> Mixing:
    by_y = stratified(pool, pair.y, key, num, others=others)
    by_yhat = stratified(pool, pair.yhat, key, num, others=others)

    def averaged(x: Tensor, index: Tensor) -> Tensor:
        """The mean of F over the mixtures, (G, n, L), G the length of the grid."""
        return torch.stack([mixtures(model, x, pool, index, lam).exp().mean(1) for lam in grid])

    clean, mixed, twin = averaged(pair.x0, by_y), averaged(pair.x, by_yhat), averaged(pair.x0, by_yhat)
    y, yhat, clean_y = pair.of_y(mixed), pair.of_yhat(mixed), pair.of_y(clean)
    delta_y, delta_yhat = y - pair.of_y(pair.after), yhat - pair.of_yhat(pair.after)
    delta_clean = clean_y - pair.of_y(pair.before)
    full_y = pair.of_y(pair.after) - pair.of_y(pair.before)
    full_yhat = pair.of_yhat(pair.after) - pair.of_yhat(pair.before)
    labels, rest = len(pool.counts), 1 - y.new_tensor(grid)[:, None]
    # How much more of y the clean mixture has by its partners, and how much less of yhat: PL's are all of y in it and all
    # of yhat in the adversarial one, OL's all but that.
    shift = -rest / (labels - 1) if others else rest
    margin = y - mixed.masked_fill(torch.eye(labels, device=y.device)[pair.y] == 1, -torch.inf).amax(2)
    improves = [bool(up > 0 and down < 0) for up, down in zip(delta_y.mean(1), delta_yhat.mean(1))]
    return Mixing(
        clean=_curve(clean_y, confidence),
        y=_curve(y, confidence),
        yhat=_curve(yhat, confidence),
        delta_clean=_curve(delta_clean, confidence),
        delta_y=_curve(delta_y, confidence),
        delta_yhat=_curve(delta_yhat, confidence),
        improves=tuple(improves),
        improved=_curve((delta_y > 0) & (delta_yhat < 0), confidence),
        detection_gap=_curve(delta_clean - delta_yhat, confidence),
        published=Gaps(
            y=_curve(shift - (clean_y - y) - full_y, confidence),
            yhat=_curve(full_yhat - (yhat - pair.of_yhat(clean) - shift), confidence),
        ),
        paired=Gaps(
            y=_curve(y - pair.of_y(twin) - full_y, confidence),
            yhat=_curve(full_yhat - (yhat - pair.of_yhat(twin)), confidence),
        ),
        threshold_y=tuple((1 - lam) * ((labels - 2) / (labels - 1) if others else 1) for lam in grid),
        threshold_yhat=tuple(0.0 if others else 1 - lam for lam in grid),
        margin=_curve(margin, confidence),
        recovered=_curve(margin > 0, confidence),
    )


def _curve(values: Tensor, confidence: float) -> Curve:
    """The mean over images of every row of values (G, n), or of truths, with its interval."""
    if values.dtype == torch.bool:
        return tuple(wilson(int(each.sum()), len(each), confidence) for each in values)
    return tuple(clustered(each.double().cpu().numpy(), confidence=confidence) for each in values)
