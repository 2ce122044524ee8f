"""Free adversarial training: one backward pass gives the gradient of the weights and that of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.objective import Carrying, Examples, Terms
from holdfast.threats.threat import Threat


class Replayed(NamedTuple):
    """Perturbed images ``x`` (N, C, H, W), a leaf that requires its gradient, the ``clean`` ones, and labels ``y`` (N,)."""

    x: Tensor
    clean: Tensor
    y: Tensor


@register
@dataclass(frozen=True)
class Free(Carrying):
    """Cross-entropy at images under the perturbation that the steps before have built up, one step of ascent each.

    Source: Shafahi et al., "Adversarial training for free!" (NeurIPS 2019), algorithm 1. Every batch is to be replayed
    several times (``replays`` of `holdfast.training.recipe.Recipe`; 8 there, with 8 times fewer epochs): a replay costs no
    more than a standard step. The perturbation is zero at first, and the next batch goes on from it.
    Departures: what goes on is the perturbation inside the pixel box (there, before it is clipped to it), and the gradient
    is that at the clipped image. In the backward pass the net is in train mode, as there.

    Args:
        alpha: the length of a step, in radii.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes; the perturbation
            climbs this same loss.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    alpha: float = 1.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.positive("alpha", self.alpha)
        options.share("smoothing", self.smoothing)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Replayed:
        delta = torch.zeros_like(batch.x) if batch.delta is None else batch.delta
        x = threat.project(batch.x, batch.x + delta).detach().clone().requires_grad_()
        return Replayed(x, batch.x, batch.y)

    def terms(self, model: nn.Module, prepared: Replayed) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y, label_smoothing=self.smoothing)
        return Terms(loss, {"adversarial": loss.detach()})

    def carried(self, prepared: Replayed, threat: Threat) -> Tensor:
        x, clean, _ = prepared
        assert x.grad is not None, "carried comes after the backward pass"
        moved = x.detach() + threat.stride(1, self.alpha) * threat.steepest(x.grad)
        return threat.project(clean, moved) - clean
