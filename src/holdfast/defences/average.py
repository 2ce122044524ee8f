"""The mean of a model's probabilities over mixtures of an image with partners of one kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.meter import Classifier
from holdfast.ascent.mixtures import mixtures
from holdfast.foundation.errors import BadValue
from holdfast.imaging.partners import Sampling
from holdfast.imaging.pool import Pool

FLOOR = 0.01
"""No class falls below this part of what it has without the control variate, which could leave it nothing."""
BLOCK = 4
"""Draws between two looks at an early stop."""


@dataclass(frozen=True)
class Average:
    """One average: ``lam``, in (0, 1], is the image's own share of a mixture, ``num_draws`` how many mixtures there are."""

    lam: float = 0.5
    num_draws: int = 30

    def __post_init__(self) -> None:
        if not 0 < self.lam <= 1:
            raise BadValue(f"lam is {self.lam}; it must lie in (0, 1]", hint="for example lam=0.5; lam=1 mixes nothing")
        if self.num_draws < 1:
            raise BadValue(f"num_draws is {self.num_draws}; at least one is needed", hint="for example num_draws=30")


@dataclass(frozen=True)
class Draws:
    """What a model says of mixtures: ``logarithms`` of its probabilities and the control variate ``noise``, (B, N, L)."""

    logarithms: Tensor
    noise: Tensor | None

    def probabilities(self) -> Tensor:
        """Draw by draw, (B, N, L): less the noise they may leave [0, 1], and still add up to 1."""
        plain = self.logarithms.exp()
        return plain if self.noise is None else plain - self.noise

    def mean(self) -> Tensor:
        """The logarithm of their average, (B, L), finite where the model's are."""
        plain = self.logarithms.logsumexp(1) - math.log(self.logarithms.shape[1])
        if self.noise is None:
            return plain
        less = (plain.exp() - self.noise.mean(1)).clamp_min(torch.finfo(plain.dtype).tiny)
        return torch.maximum(less.log(), plain + math.log(FLOOR))

    def leads(self, errors: float) -> Tensor:
        """Whether the leading class leads the next one by so many standard errors of their difference, (B,) bool."""
        found = self.probabilities()
        first, second = found.mean(1).topk(2).indices.unbind(1)
        rows = torch.arange(len(found), device=found.device)
        lead = found[rows, :, first] - found[rows, :, second]
        return lead.mean(1) > errors * lead.std(1) / lead.shape[1] ** 0.5

    def rows(self, chosen: Tensor) -> Draws:
        return Draws(self.logarithms[chosen], None if self.noise is None else self.noise[chosen])

    def and_more(self, more: Draws) -> Draws:
        """These draws and others of the same images."""
        noise = None if self.noise is None or more.noise is None else torch.cat([self.noise, more.noise], 1)
        return Draws(torch.cat([self.logarithms, more.logarithms], 1), noise)


@dataclass(frozen=True)
class Seen:
    """What a model says of the images of a pool: ``outputs`` (M, L), probabilities, and their mean over each of its P
    classes' own images, ``own`` (P, L), and over the others' with every class counting alike, ``others`` (L, L)."""

    outputs: Tensor
    own: Tensor
    others: Tensor

    @classmethod
    def of(cls, outputs: Tensor, pool: Pool) -> Seen:
        sums = outputs.new_zeros(len(pool.counts), outputs.shape[1]).index_add(0, pool.labels, outputs)
        own = sums / pool.counts[:, None]
        if pool.foreign:
            return cls(outputs, own, own.mean(0).expand(outputs.shape[1], -1))
        return cls(outputs, own, (own.sum(0) - own) / (len(own) - 1))


@dataclass(frozen=True)
class Branch:
    """How one average is made.

    Args:
        model: evaluates the mixtures.
        pool: of the partners.
        average: of how many, and by what share.
        others: whether partners are of the classes that the model does not give the image.
        sampling: how they are drawn.
        seen: for the control variate; None: there is none.
        early_stop: see `MixupInference`.
    """

    model: Classifier
    pool: Pool
    average: Average
    others: bool
    sampling: Sampling
    seen: Seen | None
    early_stop: float | None

    def draws(self, x: Tensor, predicted: Tensor, key: Tensor) -> Draws:
        """All draws of the images (B, C, H, W); ``predicted`` (B,) and ``key`` (B,) decide the partners."""
        return self._evaluated(x, predicted, self._partners(predicted, key))

    def mean(self, x: Tensor, predicted: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the averaged probabilities, (B, L), and how many draws were made for each image, (B,)."""
        num, made = self.average.num_draws, torch.full_like(predicted, self.average.num_draws)
        index = self._partners(predicted, key)
        if self.early_stop is None or not len(x) or (torch.is_grad_enabled() and x.requires_grad):
            return self._evaluated(x, predicted, index).mean(), made
        rows = torch.arange(len(x), device=x.device)
        found = self._evaluated(x, predicted, index[:, :BLOCK])
        out = found.mean()
        for drawn in range(BLOCK, num, BLOCK):
            goes_on = ~found.leads(self.early_stop)
            made[rows[~goes_on]] = drawn
            rows, found = rows[goes_on], found.rows(goes_on)
            if not len(rows):
                break
            more = index[rows, drawn : drawn + BLOCK]
            found = found.and_more(self._evaluated(x[rows], predicted[rows], more))
            out[rows] = found.mean()
        return out, made

    def _partners(self, predicted: Tensor, key: Tensor) -> Tensor:
        pool = self.pool.to(predicted.device)
        key = keys.fold(key, int(self.others))
        return self.sampling(pool, predicted, key, self.average.num_draws, others=self.others)

    def _evaluated(self, x: Tensor, predicted: Tensor, index: Tensor) -> Draws:
        logarithms = mixtures(self.model, x, self.pool.to(x.device), index, self.average.lam)
        if self.seen is None or self.average.lam == 1:
            return Draws(logarithms, None)
        expected = (self.seen.others if self.others else self.seen.own).to(x.device)[predicted]
        seen = self.seen.outputs.to(x.device)[index]
        return Draws(logarithms, (1 - self.average.lam) * (seen - expected[:, None]))
