"""Mixup inference: what it seems to gain, and what is left of it under an attack that averages over its draws."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from holdfast.attacks.pgd import PGD
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.options import calibrated, pool_from
from holdfast.data.source import Source, subset
from holdfast.defences.average import Average
from holdfast.defences.crop_and_resize import CropAndResize
from holdfast.defences.defence import Defence
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.defences.mixup_inference import MixupInference as Inference
from holdfast.defences.random_rotation import RandomRotation
from holdfast.defences.resize_and_pad import ResizeAndPad
from holdfast.experiments.charts import Point, figure, ladder
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, Trained, Training
from holdfast.experiments.mixup_published import published
from holdfast.experiments.mixup_table import Table, accuracy, undefended, verdict
from holdfast.experiments.outcome import Cell, Column, Outcome, percent
from holdfast.experiments.under_attack import UnderAttack, column_of
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick, register
from holdfast.imaging.pool import Pool
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.interpolated import Interpolated
from holdfast.objectives.mixup import Mixup
from holdfast.objectives.objective import Objective
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf

NETS = ("mixup", "interpolated", "standard", "adversarial")
ROBUST = ("interpolated", "adversarial")
HELD_OUT = 4
"""Evaluations by which the adaptive attack chooses among points."""


@register
@dataclass(frozen=True, kw_only=True)
class MixupInference(Experiment):
    """Mixup inference gains much against attacks that do not know of it, and hardly anything against one that does.

    The tables of the paper, with an adaptive attack beside them. Departures: partners come from training images and none is
    tested on; tau is calibrated on held-out images; PGD also climbs the loss of the true label (the authors' climbs that of
    the net's own prediction, which leads misclassified images towards their class); "Xie et al." resizes, as they did (the
    authors' crops).

    Sources: Pang, Xu and Zhu, "Mixup inference: better exploiting mixup to defend adversarial attacks" (ICLR 2020), tables 1
    to 3 and the authors' code; Tramer et al., "On adaptive attacks to adversarial example defenses" (NeurIPS 2020),
    section 14.

    Args:
        nets: what nets are trained on: ``mixup``, ``interpolated``, and for the ablations ``standard``, ``adversarial``.
        robust_steps: updates of the nets that are trained on adversarial points; ``steps``: of the others.
        attack_steps: of the PGD that is trained on (the authors: 10).
        eps: the radius, Linf, of training and of the attacks; ``step_size``: of the PGD that judges.
        pgd: after how many of its steps.
        per_class: images of each class in the pool.
        lam: the image's share in mixtures of MI-OL; ``robust_lam``: on nets trained on adversarial points.
        pl_draws, ol_draws, view_draws: mixtures of MI-PL and of MI-OL, copies of the other defences.
        sampling: of the partners: ``independent``, as published, or ``stratified``, which comes with the control variate.
        false_alarms: of MI-Combined, for which tau is calibrated.
        evaluations: fresh ones of every image at every point.
        adaptive_steps, restarts, budgets: of the adaptive attack (see `holdfast.audit_defence`).
        each: a table of settings of the recipe for each net, over ``settings``.
    """

    published = (
        "Pang, Xu and Zhu 2020, Linf 8/255, ResNet-50 of their own: in the table, below the rows that they belong to",
        "their figures are those of attacks that do not know of the defence; partners came from the test split",
        "Tramer et al. 2020, section 14: PGD through averaged draws takes MI-OL back to about the undefended net",
    )

    nets: tuple[str, ...] = ("mixup", "interpolated")
    net: str = "small_resnet"
    images: int = 15_000
    steps: int = 2000
    robust_steps: int = 1500
    attack_steps: int = 2
    batch_size: int = 128
    lr: float = 0.1
    eps: Radius = 8 / 255
    step_size: Radius = 2 / 255
    pgd: tuple[int, ...] = (10, 50, 200)
    per_class: int = 200
    lam: float = 0.5
    robust_lam: float = 0.6
    pl_draws: int = 10
    ol_draws: int = 30
    view_draws: int = 20
    sampling: str = "independent"
    false_alarms: float = 0.05
    test_images: int = 120
    evaluations: int = 3
    adaptive_steps: int = 20
    restarts: int = 2
    budgets: tuple[int, ...] = (1, 5)
    each: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for net in (*self.nets, *self.each):
            pick("net of mixup inference", net, dict.fromkeys(NETS))
        if not self.nets or not self.pgd or min(self.pgd) < 1:
            raise BadValue(
                f"nets is {self.nets} and pgd is {self.pgd}; neither may be empty, and steps are at least 1",
                hint='for example nets=["mixup"] and pgd=[10, 50]',
            )
        _ = self._effort  # refused here, before any training

    @property
    def _effort(self) -> Effort:
        return Effort(self.adaptive_steps, self.restarts, self.budgets, self.evaluations, tries=1, held_out=HELD_OUT)

    def run(self, lab: Lab) -> Outcome:
        source = lab.drawn(self.images, self.seed)
        trained = lab.trained([self._training(net, source) for net in self.nets])
        tables = [self._table(lab, net, trained[net]) for net in self.nets]
        rows: list[tuple[Cell, ...]] = []
        points: list[Point] = []
        for table in tables:
            for defence, right in table.right.items():
                cells = {column: accuracy(found) for column, found in right.items()}
                rows.append((table.net, defence, *cells.values()))
                name, theirs = published(table.net, defence, len(source.class_names))
                if theirs:
                    rows.append((table.net, f"{defence}, {name}, published", *(theirs.get(key, "") for key in cells)))
                points += [Point(key, f"{table.net}, {defence}", cells[key]) for key in self._drawn]
        first = tables[0].right["none"]
        return Outcome(
            caption=f"Linf {units.show(self.eps)}, last weights, {len(first['clean'])} test images, {self.evaluations} "
            "fresh evaluations of each, 95 % intervals over images. PGD: on the undefended net, away from the true label; "
            "own-label: away from the net's own prediction, as published; targeted: towards a random class. Adaptive: the "
            "worst point for the defence of all searches through it with up to K draws a gradient, and of those on the net; "
            "for the undefended net, all points that were found. " + " ".join(table.note for table in tables),
            columns=(Column("net"), Column("defence"), *(Column(name, "%") for name in first)),
            rows=tuple(rows),
            chart=figure(ladder(points, x="accuracy, test images")),
            verdict=verdict(tables, f"targeted PGD-{min(self.pgd)}", column_of(max(self.budgets))),
        )

    @property
    def _drawn(self) -> tuple[str, ...]:
        """The columns of the figure."""
        return "clean", f"targeted PGD-{min(self.pgd)}", column_of(max(self.budgets))

    def _training(self, net: str, source: Source) -> Training:
        inner, robust = PGD(steps=self.attack_steps), net in ROBUST
        objectives: dict[str, Objective] = {
            "mixup": Mixup(),
            "interpolated": Interpolated(inner),
            "standard": Standard(),
            "adversarial": Adversarial(inner),
        }
        asked = replace(self, settings={**self.settings, **self.each.get(net, {})})
        return asked.training(
            net,
            objectives[net],
            Linf(self.eps if robust else 0),
            source,
            steps=self.robust_steps if robust else self.steps,
            watch="warn",
            optimiser="sgd",
            schedule="one_cycle",
            flip=True,
            shift=4,
        )

    def _table(self, lab: Lab, net: str, trained: Trained) -> Table:
        """Every defence of one net at every point."""
        asked, model = trained.asked, lab.model(trained, "last")
        held, judges = subset(asked.source, asked.held_out, asked.recipe.seed), lab.judges(self.test_images, self.seed)
        pool = pool_from(asked.learned, per_class=self.per_class, seed=self.seed)
        x, y = lab.tensors(judges, model)
        for images in (x, lab.tensors(held, model)[0]):
            pool.check_apart(images)
        ids = torch.from_numpy(np.array(judges.ids, dtype=np.int64)).to(x.device)
        bench = UnderAttack(model, x, y, ids, Linf(self.eps), self.pgd, self.step_size, self._effort, self.seed)
        defences = self._defences(pool, robust=net in ROBUST)
        defences["MI-Combined"], tau = calibrated(
            defences["MI-Combined"], model, held, np.zeros(0, dtype=np.int64), self.false_alarms
        )
        label, found = y.cpu().numpy(), {}
        for name, defence in defences.items():
            lab.progress(f"{net}, {name}", 100, 100)
            found[name] = bench.answers(defence, trained.folder / "defences", name.lower().replace(" ", "_"))
        right = {"none": undefended(list(found.values()), label, list(map(column_of, self.budgets)))}
        for name, answers in found.items():
            right[name] = {key: np.array(each) == label[:, None] for key, each in answers.defended.items()}
        return Table(
            net,
            right,
            f"{net}: pool of {len(pool.images):,} training images ({pool.fingerprint}), none of them tested on; tau "
            f"{tau.value:.2f} flags {percent(tau.rate.value)} of {tau.rate.n:,} held-out clean images.",
        )

    def _defences(self, pool: Pool, *, robust: bool) -> dict[str, Defence]:
        share, draws = self.robust_lam if robust else self.lam, self.view_draws
        pl, ol = Average(self.lam, self.pl_draws), Average(share, self.ol_draws)
        both = Average(self.lam, 5), Average(share if robust else 0.4, 15)

        def mixed(pl: Average | None, ol: Average | None) -> Inference:
            better = self.sampling != "independent"
            return Inference(pool, pl, ol, sampling=self.sampling, control_variate=better, seed=self.seed)

        return {
            "Gaussian noise": GaussianNoise(num_draws=draws, seed=self.seed),
            "rotation": RandomRotation(num_draws=draws, seed=self.seed),
            "Xie et al.": ResizeAndPad(num_draws=draws, seed=self.seed),
            "Guo et al.": CropAndResize(num_draws=draws, seed=self.seed),
            "MI-PL": mixed(pl, None),
            "MI-OL": mixed(None, ol),
            "MI-Combined": mixed(*both),
        }
