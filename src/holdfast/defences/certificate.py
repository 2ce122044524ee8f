"""Certificates of randomised smoothing: an L2 distance within which the smoothed class provably does not change.

The smoothed classifier g answers with the class that the model most probably gives the image plus Gaussian noise of standard
deviation ``sigma``. If that probability is at least p > 1/2, g answers the same within ``sigma * ndtri(p)`` of the image, in
units of pixel values in [0, 1]. All else is the estimation of p from draws: a certificate is wrong with a probability of at
most ``alpha``. On CIFAR-10 a radius of 0.5 holds an Linf ball of 0.5 / sqrt(3072) = 2.3/255 and no larger one.

Source: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019), section 3.

What an image draws is a function of ``seed`` and its id alone: a set may be certified in any parts and batches, and a run
that was stopped goes on with the images that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.defences.evidence import evidence
from holdfast.defences.gaussian_noise import noisy
from holdfast.defences.options import between, whole
from holdfast.defences.viewed import at_once
from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.stats import Interval, clopper_pearson, mcnemar, wilson

ABSTAINS = -1
SELECT, ESTIMATE, PREDICT = (keys.number(f"smoothing {stage}") for stage in ("select", "estimate", "predict"))
LEAST, GROWTH = 32, 8
"""Draws before the first look; between two looks, what was drawn over this."""
FURTHEST = 8
"""Standard deviations: float64 still tells the probability from 1."""


@dataclass(frozen=True)
class Certificates:
    """What is certified of n images.

    Args:
        label: the class of the smoothed classifier, (n,) int64; `ABSTAINS` where nothing is certified.
        radius: the L2 distance within which it stays, (n,) float64; 0 where nothing is certified.
        votes: how many draws of the estimation gave the selected class, (n,) int64.
        draws: forwards that were made in all, (n,) int64.
    """

    label: Tensor
    radius: Tensor
    votes: Tensor
    draws: Tensor


def certify(
    model: Classifier,
    x: Tensor,
    ids: Tensor,
    *,
    sigma: float,
    select: int = 100,
    estimate: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
) -> Certificates:
    """The largest radii that a fixed number of draws can certify: Cohen et al.'s CERTIFY.

    ``select`` draws name a class; ``estimate`` others give the Clopper-Pearson lower bound of its probability, one-sided at
    ``alpha``. Where it is below 1/2 nothing is certified. No radius exceeds what all draws of one class give: 1.50, 2.46,
    3.20 and 3.81 times sigma for 10**2 to 10**5 draws at alpha 0.001.

    Args:
        model: images -> logits; searched in evaluation mode. It is the smoothed classifier's base, not itself smoothed.
        x: images (n, C, H, W) in [0, 1], on the model's device.
        ids: what makes each image's draws its own, (n,) int64.
        sigma: the noise's standard deviation, which the model should have been trained with.
        select: draws that name the class.
        estimate: draws that certify it.
        alpha: how probable an image's certificate may be a wrong one.
        seed: of all draws.

    Raises:
        BadValue: a number outside its range.
        BadData: ids that are not one for each image.
    """
    whole("estimate", estimate, 1)
    key = _key(x, ids, sigma, alpha, seed)
    with frozen(model):
        label = _selected(model, x, key, sigma, select)
        found = _votes(model, x, keys.fold(key, ESTIMATE), range(estimate), sigma)
    hits = found.gather(1, label[:, None])[:, 0]
    radii = [radius_of(count, estimate, sigma=sigma, alpha=alpha) for count in hits.tolist()]
    radius = torch.tensor(radii, dtype=torch.float64, device=x.device)  # float32 would round some up
    label = torch.where(radius.isnan(), ABSTAINS, label)
    return Certificates(label, radius.nan_to_num(0.0), hits, torch.full_like(hits, select + estimate))


def certify_at(
    model: Classifier,
    x: Tensor,
    ids: Tensor,
    *,
    radii: Sequence[float],
    sigma: float,
    select: int = 100,
    estimate: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
) -> Certificates:
    """The largest of the given radii that can be certified, with as few draws as decide it.

    Drawing stops for an image as soon as the next radius is decided: certified when the evidence for it reaches 1 / alpha,
    given up when the evidence against it does, or after ``estimate`` draws. A radius is certified after all smaller ones, so
    that the guarantee is that of `certify` for all of them together: the first wrong one is certified with a probability of
    at most ``alpha``. The other arguments are those of `certify`.

    Source: Voracek, "Treatment of statistical estimation problems in randomized smoothing for adversarial robustness"
    (NeurIPS 2024); see `holdfast.defences.evidence`. Departures: the class is selected by draws, not given; the draws are
    looked at in blocks, each an eighth of those before it; several radii, in turn.

    Args:
        radii: increasing, from 0 on, which certifies the class alone.
    """
    whole("estimate", estimate, 1)
    if not len(radii) or not radii[0] >= 0 or any(not low < high for low, high in zip(radii, [*radii[1:], math.inf])):
        raise BadValue(f"radii are {list(radii)}; they must increase from 0 or more", hint="for example (0, 0.25, 0.5)")
    key = _key(x, ids, sigma, alpha, seed)
    if radii[-1] > FURTHEST * sigma:
        raise BadValue(f"radius {radii[-1]:g} is more than {FURTHEST} sigma", hint="no number of draws shows so much")
    bounds = [0.5 * math.erfc(-radius / sigma / math.sqrt(2)) for radius in radii]
    with frozen(model):
        label = _selected(model, x, key, sigma, select)
        hits, passed = torch.zeros_like(label), torch.zeros_like(label)
        draws, key = torch.zeros_like(label), keys.fold(key, ESTIMATE)
        rows, done = torch.arange(len(x), device=x.device), 0
        while len(rows) and done < estimate:
            upto = min(estimate, done + max(LEAST, done // GROWTH))
            found = _votes(model, x[rows], key[rows], range(done, upto), sigma)
            hits[rows] += found.gather(1, label[rows][:, None])[:, 0]
            draws[rows], done = upto, upto
            won, goes_on = _decided(hits[rows], done, passed[rows], bounds, alpha)
            passed[rows] = won
            rows = rows[goes_on]
    radius = torch.tensor([0.0, *radii], dtype=torch.float64, device=x.device)[passed]
    return Certificates(torch.where(passed > 0, label, ABSTAINS), radius, hits, draws + select)


def predict(
    model: Classifier, x: Tensor, ids: Tensor, *, sigma: float, draws: int = 1000, alpha: float = 0.001, seed: int = 0
) -> Tensor:
    """The smoothed classifier's class, (n,) int64, wrong with a probability of at most ``alpha``; else `ABSTAINS`.

    Source: Cohen et al., PREDICT: it abstains unless the two classes of the most votes differ by the exact two-sided
    binomial test at ``alpha`` (Hung and Fithian, "Rank verification for exponential families", 2019). Arguments are those of
    `certify`.
    """
    whole("draws", draws, 1)
    key = _key(x, ids, sigma, alpha, seed)
    with frozen(model):
        found = _votes(model, x, keys.fold(key, PREDICT), range(draws), sigma)
    (first, second), label = found.topk(2, 1).values.T.tolist(), found.argmax(1)
    sure = [mcnemar(a, b, n=a + b).p_value <= alpha for a, b in zip(first, second)]
    return torch.where(torch.tensor(sure, dtype=torch.bool, device=x.device), label, ABSTAINS)


def radius_of(votes: int, draws: int, *, sigma: float, alpha: float) -> float:
    """The radius that so many votes of so many draws certify; NaN where they show no majority."""
    from scipy.special import ndtri

    low = clopper_pearson(votes, draws, 1 - 2 * alpha).low
    return sigma * float(ndtri(low)) if low >= 0.5 else math.nan


def certified_accuracy(
    certificates: Certificates, y: Tensor, radii: Sequence[float], *, confidence: float = 0.95
) -> list[Interval]:
    """For each radius the share of images that are right and certified at least that far, with Wilson's interval.

    It bounds the accuracy of the smoothed classifier under any L2 attack of that radius from below, up to the certificates
    that are wrong, of which a share ``alpha`` at most is to be expected. ``y`` are the true labels, (n,).
    """
    right = certificates.label == y
    return [wilson(int((right & (certificates.radius >= each)).sum()), len(y), confidence) for each in radii]


def _key(x: Tensor, ids: Tensor, sigma: float, alpha: float, seed: int) -> Tensor:
    between("sigma", sigma, 0, math.inf, 0.25)
    between("alpha", alpha, 0, 0.5, 0.001)
    if ids.shape != x.shape[:1]:
        raise BadData(f"ids are {tuple(ids.shape)} for {len(x)} images", hint="give each image a number of its own")
    return keys.fold(keys.root(seed, device=x.device), ids.to(x.device))


def _selected(model: Classifier, x: Tensor, key: Tensor, sigma: float, draws: int) -> Tensor:
    whole("select", draws, 1)
    return _votes(model, x, keys.fold(key, SELECT), range(draws), sigma).argmax(1)


@torch.no_grad()
def _votes(model: Classifier, x: Tensor, key: Tensor, draws: range, sigma: float) -> Tensor:
    """How often noisy copies of each image are given each class, (n, L) int64, for the draws of these numbers."""
    out, size = None, at_once(x)
    for start in range(0, max(1, len(x) * len(draws)), size):
        place = torch.arange(start, min(start + size, len(x) * len(draws)), device=x.device)
        row, draw = place // len(draws), place % len(draws) + draws.start
        logits = model(noisy(x[row], keys.fold(key[row], draw), sigma))
        out = torch.zeros(len(x), logits.shape[1], dtype=torch.int64, device=x.device) if out is None else out
        out.index_put_((row, logits.argmax(1)), torch.ones_like(row), accumulate=True)
    assert out is not None
    return out


def _decided(hits: Tensor, draws: int, passed: Tensor, bounds: Sequence[float], alpha: float) -> tuple[Tensor, Tensor]:
    """How many radii are certified now, (n,), and which images need more draws for the next, (n,) bool."""
    count, level = hits.cpu().numpy(), -math.log(alpha)
    won, goes_on = passed.cpu().numpy().copy(), np.zeros(len(count), dtype=bool)
    for place, p in enumerate(bounds):
        won[(won == place) & (evidence(count, draws, p) >= level)] = place + 1
        goes_on |= (won == place) & (evidence(draws - count, draws, 1 - p) < level)
    return torch.from_numpy(won).to(passed.device), torch.from_numpy(goes_on).to(passed.device)
