"""Mixup gap: an answer that loses confidence when the image is mixed with clean ones is suspicious."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.meter import Classifier
from holdfast.ascent.mixtures import mixtures
from holdfast.ascent.search_copy import search_copy
from holdfast.detectors.detector import Judged, prepared
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.foundation.registry import register
from holdfast.imaging import partners
from holdfast.imaging.pool import Pool

NAME = keys.number("mixup gap")


@register
@dataclass(frozen=True)
class MixupGap:
    """How far the confidence falls, in [-1, 1], when the image is mixed with clean images of the predicted class.

    Source: Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), section 3, and the authors' code: the largest probability of
    the model less the largest of the average over mixtures. It is what `holdfast.defences.mixup_inference` detects by,
    here without its control variate and with a gradient.

    On nets of interpolated adversarial training the score is inverted: hold its AUC against 1/2 before it is used.

    Args:
        lam: the image's share of a mixture, in (0, 1).
        num_draws: mixtures.
        follow: which probability of the average is compared: ``largest`` (the code), or ``predicted``, that of the class
            which the model gives the image (the theory's).
        sampling: how partners are drawn (see `holdfast.imaging.partners`).
        seed: of the draws.
    """

    flat: ClassVar[str] = ""

    lam: float = 0.5
    num_draws: int = 5
    follow: str = "largest"
    sampling: str = "stratified"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lam < 1:
            raise BadValue(f"lam is {self.lam}; it must lie between 0 and 1", hint="for example lam=0.5")
        if self.num_draws < 1:
            raise BadValue(f"num_draws is {self.num_draws}; at least one is needed", hint="for example num_draws=5")
        if self.follow not in ("largest", "predicted"):
            raise BadValue(f"follow is {self.follow!r}", hint='give "largest" or "predicted"')
        partners.named(self.sampling)

    @torch.inference_mode(False)
    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> MixedGap:
        """As `Detector.fit`: the clean images are the partners, and every class of the model needs one."""
        core, classes = prepared(module, x, y)
        pool = Pool.of(x, y, source="the images it was fitted on")
        if classes != len(pool.counts):
            raise BadModel(
                f"the model has {classes} classes, and the clean images {len(pool.counts)}",
                hint="give images of all classes",
            )
        return MixedGap(self, core, search_copy(core, x[:32]).module, pool)


@dataclass(frozen=True)
class MixedGap:
    """The fitted detector; as it stands it has the draws of evaluation 0.

    Args:
        detector: its configuration.
        core: the model. ``quick``: the same, for the mixtures.
        pool: the partners (`Pool.check_apart` refuses images under test that lie in it).
        evaluation: whose draws it has.
    """

    detector: MixupGap
    core: nn.Module
    quick: Classifier
    pool: Pool
    evaluation: tuple[int, ...] = (0,)

    def at(self, *evaluation: int) -> MixedGap:
        return MixedGap(self.detector, self.core, self.quick, self.pool, evaluation)

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Judged:
        detector = self.detector
        key = keys.fold(keys.root(detector.seed, device=x.device), NAME)
        for number in self.evaluation:
            key = keys.fold(key, number)
        key = key.expand(len(x)) if ids is None else keys.fold(key, ids.to(x.device))
        logits = self.core(x)
        base, predicted = logits.log_softmax(1).max(1)
        index = partners.named(detector.sampling)(self.pool, predicted, key, detector.num_draws, others=False)
        mixed = mixtures(self.quick, x, self.pool, index, detector.lam).logsumexp(1) - math.log(detector.num_draws)
        kept = mixed.amax(1) if detector.follow == "largest" else mixed.gather(1, predicted[:, None])[:, 0]
        return Judged(logits, base.exp() - kept.exp())
