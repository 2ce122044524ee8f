"""Training eps: what clean accuracy pays for robustness, and what it gets, as the radius of training grows."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.attacks.pgd import PGD
from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, rate, written
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent
from holdfast.foundation import units
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True, kw_only=True)
class TrainingEps(Experiment):
    """Clean and robust accuracy against the radius of training, Linf and L2; robust at one radius for all nets.

    Sources: Madry et al. (ICLR 2018); Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), figure 7;
    Salman et al., "Do adversarially robust ImageNet models transfer better?" (NeurIPS 2020).

    Args:
        linf: the radii of training, besides 0; ``linf_judged``: the radius of the verdicts.
        l2: likewise; ``l2_judged``.
        attack_steps: of the PGD that is trained on.
    """

    published = (
        "Salman et al. 2020, ImageNet, ResNet-50, L2, clean accuracy at training eps 0 / 0.01 / 0.1 / 0.5 / 1 / 3 / 5: "
        "75.8 / 75.7 / 74.8 / 73.2 / 70.4 / 62.8 / 56.1 %",
        "likewise Linf 0.5 / 1 / 2 / 4 / 8, of 255: 73.7 / 72.1 / 69.1 / 63.9 / 54.5 %",
        "ResNet-18, L2: 69.8 % at 0, 69.9 % at 0.01: at the smallest radii clean accuracy need not fall",
    )

    linf: tuple[Radius, ...] = (0.05, 0.1, 0.2, 0.3)
    linf_judged: Radius = 0.1
    l2: tuple[Radius, ...] = (0.5, 1.0, 2.0, 3.0)
    l2_judged: Radius = 1.0
    attack_steps: int = 5
    images: int = 2000
    steps: int = 300

    def run(self, lab: Lab) -> Outcome:
        source = lab.drawn(self.images, self.seed)
        inner = Adversarial(PGD(steps=self.attack_steps))
        balls: tuple[tuple[type[Threat], tuple[float, ...], float], ...] = (
            (Linf, self.linf, self.linf_judged),
            (L2, self.l2, self.l2_judged),
        )
        trainings = [self.training("standard", Standard(), Linf(0), source)]
        names: dict[tuple[str, float], str] = {}
        for ball, radii, _ in balls:
            for eps in radii:
                name = f"{ball(eps).name}-{written(eps)}"
                names[ball(eps).name, eps] = name
                trainings.append(self.training(name, inner, ball(eps), source, watch="warn"))
        trained = lab.trained(trainings)
        rows: list[tuple[Cell, ...]] = []
        panels: list[Panel] = []
        seen: list[str] = []
        shape = True
        for ball, radii, judged in balls:
            threat = ball(judged)
            clean: dict[float, Interval] = {}
            robust: dict[float, Interval] = {}
            for eps in (0.0, *radii):
                summary = self.audited(lab, trained[names.get((threat.name, eps), "standard")], "best", threat).summary
                clean[eps], robust[eps] = rate(summary.clean_accuracy), rate(summary.robust_accuracy)
                rows.append((threat.name, units.show(eps), clean[eps], robust[eps]))
            points = [
                Point(word, eps, found[eps]) for word, found in (("clean", clean), ("robust", robust)) for eps in found
            ]
            title = f"{threat.name}, robust at {units.show(judged)}"
            panels.append(Panel(title, points, [(judged, "judged at")]))
            top, most = (max(each, key=lambda eps: each[eps].value) for each in (clean, robust))
            largest = max(radii)
            shape &= robust[0.0].high < robust[most].low and clean[largest].value < clean[top].value
            seen.append(
                f"{threat.name}: clean {percent(clean[0.0].value)} at training eps 0, {percent(clean[top].value)} at "
                f"{units.show(top)}, the most, and {percent(clean[largest].value)} at {units.show(largest)}; robust "
                f"{percent(robust[0.0].value)} at 0 and {percent(robust[most].value)} at {units.show(most)}, the most"
            )
        return Outcome(
            caption=f"The most robust weights on held-out images, {clean[0.0].n} test images, 95 % Wilson intervals; "
            f"robust: by the plan {self.plan} at Linf {units.show(self.linf_judged)} and L2 {units.show(self.l2_judged)}.",
            columns=(Column("threat"), Column("training eps"), Column("clean"), Column("robust")),
            rows=tuple(rows),
            chart=figure(lines(panels, x="training eps", y="accuracy, test images")),
            verdict=Verdict(shape, "; ".join(seen)),
        )
