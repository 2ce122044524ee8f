"""What a net would be worth now: its accuracy on images that were held out of the training data, and what that says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from holdfast.ascent import engine
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.spatial_gradient import SpatialGradient
from holdfast.records.schema import Finding
from holdfast.threats.threat import Threat
from holdfast.threats.union import parts
from holdfast.training.folder import ROBUST, EpochRecord, worth
from holdfast.training.team import Team

FALL = 0.05
"""By how much held-out robust accuracy has fallen from its best when a net is said to overfit."""


class Judged(NamedTuple):
    """Shares of right answers: ``clean``, ``robust`` after ten steps of PGD, ``single`` after FGSM."""

    clean: float
    robust: float
    single: float


def judged(
    net: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int, *, outputs: int = 0, team: Team | None = None
) -> Judged:
    """The accuracy of ``net`` on images (N, C, H, W) in [0, 1] with labels (N,).

    Over a union of sets an image counts as robust where no part has a point that fools. Rotations and shifts are searched
    by gradients in ten restarts; both figures are of that search there.

    Args:
        net: in any mode; it is left in eval mode.
        threat: the set; at a radius of 0 all three are the clean accuracy.
        outputs: outputs of the net besides the classes, which have no say.
        team: the processes that share the images; all have the same net and images, and get the same answer.
    """
    team, count = team or Team(), len(x)
    ids = torch.arange(count, device=x.device)[team.rank :: team.world]
    x, y = x[ids], y[ids]
    net.eval()
    with frozen(net):
        answering = classes_of(net, outputs)
        right = engine.predict(answering, x).argmax(1) == y
        robust, single = right, right
        for part in parts(threat):
            if not part.eps:
                continue
            attacks: tuple[Attack, Attack] = PGD(steps=10), FGSM()
            if part.name not in PGD.threats:
                attacks = SpatialGradient(), SpatialGradient()
            found = [~attack(answering, x, y, threat=part, seed=seed, ids=ids).fooled for attack in attacks]
            robust, single = robust & found[0], single & found[1]
    right_of_all = torch.stack([each.double().sum() for each in (right, robust, single)])
    team.add_up([right_of_all])
    return Judged(*(right_of_all / count).tolist())


def classes_of(net: Classifier, outputs: int) -> Classifier:
    """The net without its last ``outputs`` outputs."""
    return (lambda x: net(x)[:, :-outputs]) if outputs else net


def one_answer(net: nn.Module, x: Tensor) -> bool:
    """Whether the net gives one answer to all images."""
    with frozen(net), torch.no_grad():
        answers = net(x).argmax(1)
    return bool((answers == answers[0]).all())


Judge = Callable[[nn.Module], Judged]
"""A net -> its accuracy on the held-out images."""


def constant_network() -> Finding:
    """That a net gives `one_answer`."""
    return Finding(
        check="constant network",
        level="warning",
        saw="the net gives one answer to all held-out images",
        means="it has learned nothing, as small nets at large radii can (Madry et al. 2018, section 4)",
        remedy="let the radius grow over more steps (warm_up), lower the learning rate, or take a wider net",
    )


def overfitting(epochs: Sequence[EpochRecord], robust: float, train: float) -> Finding | None:
    """Robust overfitting: held-out accuracy falls while that on the training images does not. It is told once.

    Args:
        epochs: those before; ``robust``: the held-out accuracy after PGD now, ``train``: that on training images.
    """
    best = max(epochs, key=worth, default=None)
    told = any(each.check == "robust overfitting" for record in epochs for each in record.findings)
    if best is None or told or robust > best.robust - FALL or train < best.robust + FALL:
        return None
    return Finding(
        check="robust overfitting",
        level="warning",
        saw=f"after PGD {robust:.0%} of the held-out images are right, which was {best.robust:.0%} after epoch "
        f"{best.epoch}, and {train:.0%} of the training images",
        means="the net learns its training images by heart (Rice, Wong and Kolter 2020)",
        remedy=f"{ROBUST} is from epoch {best.epoch}; train for fewer epochs, average the weights or perturb them (awp)",
    )
