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
from holdfast.models.model import Model
from holdfast.objectives.extra_class import ExtraClass as Objective
from holdfast.objectives.extra_class import undetected
from holdfast.objectives.inner import search
from holdfast.objectives.objective import Examples
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf


@register
@dataclass(frozen=True, kw_only=True)
class ExtraClass(Experiment):
    """A class of its own for adversarial points detects an attack that does not know of it, and hardly one that does.

    The adversary wins an image where a wrong class is the largest of all outputs: no alarm, and a wrong answer. Beside the
    two attacks stand clean images, uniform noise of the same radius, and the points of a standard net trained separately.

    Sources: Grosse et al., "On the (statistical) detection of adversarial examples" (2017); Carlini and Wagner,
    "Adversarial examples are not easily detected: bypassing ten detection methods" (AISec 2017).

    Args:
        eps: the radius, Linf, of training and of the attacks.
        attack_steps: of the PGD that is trained on; the verdicts take ``judge_steps``.
        restarts: how many searches of each image the adaptive attack makes, of which the worst counts.
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
        asked = (
            self.training("extra_class", Objective(PGD(steps=self.attack_steps)), threat, source, watch="warn"),
            self.training("standard", Standard(), threat, source),
        )
        model, other = (lab.model(each, "last") for each in lab.trained(asked).values())
        x, y = lab.tensors(lab.judges(self.test_images, self.seed), model)
        attack, place = PGD(steps=self.judge_steps), torch.arange(len(x), device=x.device)

        def logits(points: Tensor) -> Tensor:
            return torch.cat([engine.predict(model, part) for part in points.split(engine.default_slots(x))])

        def hunted(searched: Model, rises: Loss, seed: int = self.seed) -> Tensor:
            """The logits, (N, K + 1), at the points that a search of that net for that loss ends at."""
            key = keys.fold(keys.root(seed, device=x.device), place)
            return logits(
                torch.cat(
                    [
                        search(attack, searched.module, Examples(*part), threat, rises=rises)
                        for part in zip(*(each.split(engine.default_slots(x)) for each in (x, y, key)))
                    ]
                )
            )

        with frozen(model.module):
            clean = logits(x)
            noisy = logits(threat.sample(x, keys.fold(keys.root(self.seed, device=x.device), place)))
            moved, blind = hunted(other, margin), hunted(model, _blind)
            worst = torch.stack([hunted(model, undetected, self.seed + number) for number in range(self.restarts)])
        best = torch.stack([undetected(each, y, torch.full_like(y, -1)) for each in worst]).argmax(0)
        named = {
            "clean images": clean,
            "uniform noise": noisy,
            f"PGD-{self.judge_steps} of a standard net": moved,
            f"PGD-{self.judge_steps}, ignoring the class": blind,
            f"PGD-{self.judge_steps}, knowing it, {self.restarts} starts": worst[best, place],
        }
        rows: list[tuple[Cell, ...]] = []
        points: list[Point] = []
        raised: list[Interval] = []
        won: list[Interval] = []
        for name, each in named.items():
            answer = each.argmax(1)
            alarm = answer == each.shape[1] - 1
            raised.append(share(alarm))
            won.append(share((answer != y) & ~alarm))
            rows.append((name, share(answer == y), raised[-1], won[-1]))
            points += [Point("alarm", name, raised[-1]), Point("wrong and no alarm", name, won[-1])]
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, last weights, {len(y)} test images, 95 % Wilson intervals. An alarm on a "
            "clean image or on noise is a false one; the adversary wins where the answer is wrong and no alarm is raised.",
            columns=tuple(map(Column, ("images", "right", "alarm", "wrong and no alarm"))),
            rows=tuple(rows),
            chart=figure(ladder(points, x="share of test images")),
            verdict=Verdict(
                won[4].low > won[3].high and raised[3].value > 0.5,
                f"of the attack that ignores the class {percent(raised[3].value)} raise an alarm and "
                f"{percent(won[3].value)} win, of the one that knows of it {percent(won[4].value)} win; "
                f"{percent(raised[0].value)} of the clean images and {percent(raised[1].value)} of those with noise raise a "
                "false alarm",
            ),
        )


def _blind(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The margin among the classes of the data alone."""
    return margin(logits[:, :-1], y, target)
