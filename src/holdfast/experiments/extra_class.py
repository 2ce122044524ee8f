"""Extra class: a net that raises an alarm, and the attack that knows of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.attacks.pgd import PGD
from holdfast.experiments.charts import Point, figure, ladder
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, share
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent
from holdfast.foundation import units
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.losses import Loss, margin
from holdfast.objectives.extra_class import ExtraClass as Objective
from holdfast.objectives.extra_class import undetected
from holdfast.objectives.inner import search
from holdfast.objectives.objective import Examples
from holdfast.threats.linf import Linf


@register
@dataclass(frozen=True, kw_only=True)
class ExtraClass(Experiment):
    """A class of its own for adversarial points detects an attack that does not know of it, and hardly one that does.

    The adversary wins an image where a wrong class is the largest of all outputs: no alarm, and a wrong answer.

    Sources: Grosse et al., "On the (statistical) detection of adversarial examples" (2017); Carlini and Wagner,
    "Adversarial examples are not easily detected: bypassing ten detection methods" (AISec 2017).

    Args:
        eps: the radius, Linf, of training and of the attacks.
        attack_steps: of the PGD that is trained on; the verdicts take ``judge_steps``.
        restarts: how often the adaptive attack begins anew in its last row.
    """

    published = (
        "Grosse et al. 2017: a further class for adversarial examples detects the attacks that it was trained on",
        "Carlini and Wagner 2017: this and nine other detectors fall to an attack whose loss contains the detector",
    )

    eps: Radius = 0.2
    attack_steps: int = 10
    judge_steps: int = 40
    restarts: int = 5
    steps: int = 600

    def run(self, lab: Lab) -> Outcome:
        threat, source = Linf(self.eps), lab.drawn(self.images, self.seed)
        training = self.training("extra_class", Objective(PGD(steps=self.attack_steps)), threat, source, watch="warn")
        model = lab.model(lab.trained([training])["extra_class"], "last")
        x, y = lab.tensors(lab.judges(self.test_images, self.seed), model)
        attack = PGD(steps=self.judge_steps)

        def hunted(rises: Loss, seed: int) -> Tensor:
            """The logits, (N, K + 1), at the points that a search of that loss ends at."""
            key = keys.fold(keys.root(seed, device=x.device), torch.arange(len(x), device=x.device))
            found = [
                search(attack, model.module, Examples(*part), threat, rises=rises)
                for part in zip(*(each.split(engine.default_slots(x)) for each in (x, y, key)))
            ]
            return torch.cat([engine.predict(model, part) for part in found])

        with frozen(model.module):
            clean = engine.predict(model, x)
            blind = hunted(_blind, self.seed)
            knowing = hunted(undetected, self.seed)
            again = [hunted(undetected, self.seed + number) for number in range(1, self.restarts)]
        worst = torch.stack([knowing, *again])
        best = torch.stack([undetected(each, y, torch.full_like(y, -1)) for each in worst]).argmax(0)
        hardest = worst[best, torch.arange(len(y), device=y.device)]
        rows: list[tuple[Cell, ...]] = []
        points: list[Point] = []
        raised: dict[str, Interval] = {}
        won: dict[str, Interval] = {}
        for name, logits in (
            ("clean images", clean),
            (f"PGD-{self.judge_steps}, ignoring the class", blind),
            (f"PGD-{self.judge_steps}, knowing it", knowing),
            (f"the same, {self.restarts} starts", hardest),
        ):
            answer = logits.argmax(1)
            alarm = answer == logits.shape[1] - 1
            raised[name], won[name] = share(alarm), share((answer != y) & ~alarm)
            rows.append((name, share(answer == y), raised[name], won[name]))
            points += [Point("alarm", name, raised[name]), Point("wrong and no alarm", name, won[name])]
        names = list(won)
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, last weights, {len(y)} test images, 95 % Wilson intervals. An alarm on a "
            "clean image is a false one; the adversary wins where the answer is wrong and no alarm is raised.",
            columns=tuple(map(Column, ("images", "right", "alarm", "wrong and no alarm"))),
            rows=tuple(rows),
            chart=figure(ladder(points, x="share of test images")),
            verdict=Verdict(
                won[names[3]].low > won[names[1]].high and raised[names[1]].value > 0.5,
                f"of the attack that ignores the class {percent(raised[names[1]].value)} raise an alarm and "
                f"{percent(won[names[1]].value)} win, of the one that knows of it {percent(won[names[3]].value)} win; "
                f"{percent(raised[names[0]].value)} of the clean images raise a false alarm",
            ),
        )


def _blind(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The margin among the classes of the data alone."""
    return margin(logits[:, :-1], y, target)
