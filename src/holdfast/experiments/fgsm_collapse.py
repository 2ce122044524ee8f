"""FGSM collapse: what is trained on single steps falls to many."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, Trained, rate, share
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent
from holdfast.foundation import units
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval, wilson
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf

GAP = 0.2
"""By how much accuracy after FGSM lies above that after stronger attacks in a collapse (Wong, Rice and Kolter 2020)."""

_SERIES = ("clean", "FGSM", "PGD", "alignment")


@register
@dataclass(frozen=True, kw_only=True)
class FGSMCollapse(Experiment):
    """FGSM-trained nets fall to PGD: when the watchdog sees it, and what its repair gives.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), figure 6 and section
    5.2. The rule of the alarm: Wong, Rice and Kolter, "Fast is better than free" (ICLR 2020).

    Args:
        eps: the radius, Linf. It has to be large: at small ones single steps suffice.
    """

    published = (
        "Madry et al. 2018, figure 6, CIFAR-10, Linf 8/255, wide ResNet, accuracy clean / FGSM / PGD: trained on clean "
        "images 95.2 / 32.7 / 3.5 %, on FGSM 90.3 / 95.1 / 0.0 %, on PGD 87.3 / 56.1 / 45.8 %",
        "their smaller ResNet: 92.7 / 27.5 / 0.8 %, 87.4 / 90.9 / 0.0 %, 79.4 / 51.7 / 43.7 %",
    )

    eps: Radius = 0.25
    images: int = 2000
    steps: int = 800

    def run(self, lab: Lab) -> Outcome:
        threat, source = Linf(self.eps), lab.drawn(self.images, self.seed)
        fgsm = Adversarial(FGSM())
        trained = lab.trained(
            [
                self.training(name, objective, threat, source, schedule="constant", watch=watch)
                for name, objective, watch in (
                    ("standard", Standard(), "warn"),
                    ("fgsm", fgsm, "warn"),
                    ("fgsm-repaired", fgsm, "repair"),
                    ("n_fgsm", Adversarial(NFGSM()), "warn"),
                    ("pgd", Adversarial(PGD(steps=7)), "warn"),
                )
            ]
        )
        rows: list[tuple[Cell, ...]] = []
        single: dict[str, Interval] = {}
        robust: dict[str, Interval] = {}
        for name, each in trained.items():
            summary = self.audited(lab, each, "last", threat).summary
            model = lab.model(each, "last")
            x, y = lab.tensors(lab.judges(self.test_images, self.seed), model)
            single[name] = share(~FGSM()(model.module, x, y, threat=threat, seed=self.seed).fooled)
            robust[name] = rate(summary.robust_accuracy)
            rows.append((name, rate(summary.clean_accuracy), single[name], robust[name], _alarm(each)))
        drawn = [each for name, each in trained.items() if name != "standard"]
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, last weights, {single['fgsm'].n} test images, 95 % Wilson intervals; "
            f"robust: by the plan {self.plan}. The figure follows {drawn[0].asked.held_out} held-out images, and below them "
            "what the watchdog looks at: training images at the radius of the step, and the alignment of gradients.",
            columns=tuple(map(Column, ("trained on", "clean", "FGSM", "robust", "first alarm"))),
            rows=tuple(rows),
            chart=figure(
                lines(
                    [_held_out(each) for each in drawn],
                    x="step",
                    y="held-out images",
                    dots=False,
                    series=_SERIES,
                    height=200,
                ),
                lines(
                    [_watched(each) for each in drawn],
                    x="step",
                    y="seen by the watchdog",
                    dots=False,
                    series=_SERIES,
                    height=140,
                ),
            ),
            verdict=Verdict(
                single["fgsm"].value - robust["fgsm"].value > GAP and robust["fgsm"].high < robust["pgd"].low,
                f"of the FGSM-trained net FGSM leaves {percent(single['fgsm'].value)} right and {self.plan} "
                f"{percent(robust['fgsm'].value)}, of the PGD-trained one {percent(single['pgd'].value)} and "
                f"{percent(robust['pgd'].value)}",
            ),
        )


def _alarm(trained: Trained) -> str:
    """The first finding of the watchdog, and what it did about it."""
    for probe in trained.log.probes:
        for finding in probe.findings:
            return f"{finding.check}, step {probe.step}" + (f": {probe.repair}" if probe.repair else "")
    return "none"


def _held_out(trained: Trained) -> Panel:
    n, per_epoch = trained.asked.held_out, trained.asked.per_epoch
    points = [
        Point(name, epoch.epoch * per_epoch, wilson(round(value * n), n))
        for epoch in trained.log.epochs
        for name, value in (("clean", epoch.clean), ("FGSM", epoch.single), ("PGD", epoch.robust))
    ]
    return Panel(trained.asked.name, points, _marked(trained))


def _watched(trained: Trained) -> Panel:
    points = [
        Point(name, probe.step, Interval(value, probe.images, math.nan, math.nan))
        for probe in trained.log.probes
        for name, value in (
            ("clean", probe.clean),
            ("FGSM", probe.single),
            ("PGD", probe.robust),
            ("alignment", probe.alignment),
        )
    ]
    return Panel("", points, [(step, "") for step, _ in _marked(trained)])


def _marked(trained: Trained) -> list[tuple[float, str]]:
    first = next((probe.step for probe in trained.log.probes if probe.findings), None)
    return [] if first is None else [(first, "alarm")]
