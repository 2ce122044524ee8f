"""Equal time: what the methods of adversarial training give for the same number of passes through the net."""

from __future__ import annotations

import time
from dataclasses import dataclass

from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.rs_fgsm import RSFGSM
from holdfast.experiments.charts import Point, figure, ladder
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, Training, rate
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent
from holdfast.foundation import units
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.free import Free
from holdfast.objectives.objective import Objective
from holdfast.objectives.trades import TRADES
from holdfast.threats.linf import Linf
from holdfast.training.loop import Trainer

TIMED = 20
"""Steps by which a method's seconds are measured."""


@register
@dataclass(frozen=True, kw_only=True)
class EqualTime(Experiment):
    """PGD, TRADES, free and fast adversarial training with the same budget of passes through the net.

    A forward is one pass, a backward to the parameters two, an input gradient one: the comparison does not depend on the
    machine. The weights are those that were the most robust on held-out images.

    Sources: Madry et al. (ICLR 2018); Zhang et al., "TRADES" (ICML 2019); Shafahi et al., "Adversarial training for free!"
    (NeurIPS 2019); Wong, Rice and Kolter, "Fast is better than free" (ICLR 2020); de Jorge et al., "N-FGSM" (NeurIPS 2022).

    Args:
        eps: the radius, Linf.
        steps: of PGD-10; every other method takes as many as cost the same.
        replays: of free adversarial training: steps in a row on each batch.
    """

    published = (
        "CIFAR-10, Linf 8/255, clean / AutoAttack (RobustBench): PGD 87.1 / 44.0 % and free 86.1 / 41.5 % (WRN-34-10), "
        "TRADES 84.9 / 53.1 % (WRN-34-10, eps 0.031), fast (RS-FGSM) 83.3 / 43.2 % (PreAct ResNet-18)",
        "Shafahi et al. 2019: free with 8 replays in 785 minutes, PGD-7 in 5,418",
        "Wong et al. 2020: single steps from random starts match PGD at a fraction of its cost",
    )

    eps: Radius = 0.2
    images: int = 2000
    steps: int = 320
    replays: int = 8

    def run(self, lab: Lab) -> Outcome:
        threat, source = Linf(self.eps), lab.drawn(self.images, self.seed)
        asked: dict[str, tuple[Objective, int]] = {
            "pgd": (Adversarial(PGD(steps=10)), 1),
            "trades": (TRADES(PGD(steps=10, start="clean")), 1),
            "free": (Free(), self.replays),
            "rs_fgsm": (Adversarial(RSFGSM()), 1),
            "n_fgsm": (Adversarial(NFGSM()), 1),
        }

        def training(name: str, steps: int) -> Training:
            objective, replays = asked[name]
            return self.training(name, objective, threat, source, steps=steps, replays=replays, watch="warn")

        cost = {name: training(name, 1).passes(lab.device) for name in asked}
        budget = self.steps * cost["pgd"]
        trained = lab.trained([training(name, round(budget / cost[name])) for name in asked])
        rows: list[tuple[Cell, ...]] = []
        points: list[Point] = []
        robust: dict[str, Interval] = {}
        for name, each in trained.items():
            summary = self.audited(lab, each, "best", threat).summary
            clean, robust[name] = rate(summary.clean_accuracy), rate(summary.robust_accuracy)
            steps = each.asked.steps
            spent = cost[name], steps, round(steps * cost[name]), steps * _seconds(each.asked.begun(lab.device))
            rows.append((name, *spent, clean, robust[name]))
            points += [Point("clean", name, clean), Point("robust", name, robust[name])]
        cheap = max(("free", "rs_fgsm", "n_fgsm"), key=lambda name: robust[name].value)
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, the most robust weights on held-out images, {robust['pgd'].n} test "
            f"images, 95 % Wilson intervals; robust: by the plan {self.plan}. Passes are of a batch, in whole epochs; "
            f"the time is that of the steps alone, by {TIMED} timed ones.",
            columns=(
                *map(Column, ("method", "passes a step", "steps", "passes")),
                Column("time", "s", 0),
                *map(Column, ("clean", "robust")),
            ),
            rows=tuple(rows),
            chart=figure(ladder(points, x=f"test images, after about {budget:,.0f} passes of a batch")),
            verdict=Verdict(
                robust[cheap].high >= robust["pgd"].low,
                f"after about {budget:,.0f} passes {cheap}, the most robust of the cheap methods, has "
                f"{percent(robust[cheap].value)} robust accuracy, PGD-10 {percent(robust['pgd'].value)}, TRADES "
                f"{percent(robust['trades'].value)}",
            ),
        )


def _seconds(trainer: Trainer) -> float:
    """Seconds of a step, without the checks between steps."""
    trainer.step()  # the first one pays for what is set up once
    began = time.perf_counter()
    losses = [trainer.step() for _ in range(min(TIMED, trainer.total - 1) or 1)]
    float(losses[-1])  # waits for a device that works on its own
    return (time.perf_counter() - began) / len(losses)
