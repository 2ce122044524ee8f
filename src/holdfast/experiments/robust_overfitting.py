"""Robust overfitting: the last weights of adversarial training are not its best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.attacks.pgd import PGD
from holdfast.data.source import subset
from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, Trained, rate, share
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict
from holdfast.foundation import units
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval, mcnemar, wilson
from holdfast.objectives.adversarial import Adversarial
from holdfast.threats.linf import Linf

ON_TRAIN = 500
"""Training images on which robustness is measured, at most."""


@register
@dataclass(frozen=True, kw_only=True)
class RobustOverfitting(Experiment):
    """Robust accuracy on new images falls while that on training images rises: best weights against last.

    Source: Rice, Wong and Kolter, "Overfitting in adversarially robust deep learning" (ICML 2020), figure 1 and table 1.

    Args:
        eps: the radius, Linf.
        attack_steps: of the PGD that is trained on.
        schedule: of the learning rate; ``piecewise`` there, where robust accuracy falls soon after the first drop.
    """

    published = (
        "Rice et al. 2020, CIFAR-10, Linf 8/255, PreAct ResNet-18, robust accuracy after PGD-10: on test images 53.5 % at "
        "best, soon after the first drop of the learning rate, 45.6 % at last, and 81.1 % on training images",
        "likewise CIFAR-100 28.2 and 21.9 %, SVHN 61.0 and 54.3 %, CIFAR-10 with L2 0.5 71.6 and 68.2 %",
    )

    eps: Radius = 8 / 255
    attack_steps: int = 5
    images: int = 1000
    steps: int = 1500
    lr: float = 2e-3
    schedule: str = "constant"
    test_images: int = 1000

    def run(self, lab: Lab) -> Outcome:
        threat, source = Linf(self.eps), lab.drawn(self.images, self.seed)
        inner = Adversarial(PGD(steps=self.attack_steps))
        training = self.training("pgd", inner, threat, source, schedule=self.schedule, watch="warn")
        trained = lab.trained([training])["pgd"]
        learned = subset(training.learned, ON_TRAIN, self.seed)
        rows: list[tuple[Cell, ...]] = []
        right, own = {}, {}
        for which, epoch in (("best", trained.log.best), ("last", trained.log.epochs[-1])):
            audit = self.audited(lab, trained, which, threat)
            model = lab.model(trained, which)
            x, y = lab.tensors(learned, model)
            own[which] = share(~PGD(steps=10)(model.module, x, y, threat=threat, seed=self.seed).fooled)
            right[which] = audit.robust
            clean, robust = rate(audit.summary.clean_accuracy), rate(audit.summary.robust_accuracy)
            rows.append((which, epoch.epoch, own[which], clean, robust))
        best, last = right["best"], right["last"]
        fell = mcnemar(int((best & ~last).sum()), int((last & ~best).sum()), n=len(best)).difference
        rose = own["last"].value - own["best"].value
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, {len(training.learned):,} training images, PGD-10 on {own['best'].n} of "
            f"them; {fell.n:,} test images, the plan {self.plan}; 95 % Wilson intervals. The best weights were chosen on "
            f"{training.held_out} held-out training images; the figure follows them, and the training images "
            "that the watchdog looks at.",
            columns=tuple(map(Column, ("weights", "epoch", "robust on training images", "clean", "robust"))),
            rows=tuple(rows),
            chart=figure(lines([_panel(trained)], x="epoch", y="accuracy", dots=False)),
            verdict=Verdict(
                fell.low > 0 and rose > 0,
                f"from the best to the last weights robust accuracy on test images changes by {-100 * fell.value:+.1f} "
                f"points ({-100 * fell.high:+.1f} to {-100 * fell.low:+.1f}, paired), on training images by "
                f"{100 * rose:+.1f}",
            ),
        )


def _panel(trained: Trained) -> Panel:
    log, n = trained.log, trained.asked.held_out
    points = [
        *(Point("clean, held-out images", each.epoch, wilson(round(each.clean * n), n)) for each in log.epochs),
        *(Point("robust, held-out images", each.epoch, wilson(round(each.robust * n), n)) for each in log.epochs),
    ]
    for probe in log.probes:
        seen = Interval(probe.robust, probe.images, math.nan, math.nan)
        points.append(Point("robust, training images", probe.step / trained.asked.per_epoch, seen))
    return Panel("", points, [(log.best.epoch, "best")])
