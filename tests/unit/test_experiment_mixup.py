"""The tables of mixup inference: what is attacked how, what is scored by which draws, and what the verdict reads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.audit.defended.effort import Effort
from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.load import load
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.experiments import under_attack
from holdfast.experiments.configure import configured
from holdfast.experiments.lab import Lab
from holdfast.experiments.mixup_inference import NETS, MixupInference
from holdfast.experiments.mixup_published import COLUMNS, published
from holdfast.experiments.mixup_table import Table, undefended, verdict
from holdfast.experiments.under_attack import MARGIN, Answers, UnderAttack, column_of
from holdfast.foundation.errors import BadData, BadValue, UnknownName
from holdfast.foundation.stats import Interval
from holdfast.models.load import load as load_model
from holdfast.threats.linf import Linf

TINY = (
    *(
        "net=small_cnn",
        "options.width=2",
        "options.hidden=8",
        "images=90",
        "steps=2",
        "robust_steps=2",
        "batch_size=40",
    ),
    *("pgd=[1, 2]", "per_class=2", "pl_draws=2", "ol_draws=3", "view_draws=2", "false_alarms=0.3", "test_images=6"),
    *("evaluations=2", "adaptive_steps=1", "restarts=1", "budgets=[1]", 'nets=["mixup"]'),
)


def small(part: str, n: int) -> Arrays:
    """Digits of 8 pixels a side."""
    source = load(f"digits:{part}")
    images, labels = source.take(source.ids[:n])
    return from_pair(images[:, :, 2::4, 2::4], labels, name=f"small:{part}", class_names=source.class_names)


def asked(*more: str) -> MixupInference:
    found = configured("mixup_inference", pairs=(*TINY, *more))
    assert isinstance(found, MixupInference)
    return found


class Two(nn.Module):
    """Class 1 where the mean of the pixels is above a half; ``sharp`` logits."""

    def forward(self, x: Tensor) -> Tensor:
        above = 40 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-above, above], 1)


def bench(x: Tensor, y: Tensor, **more: object) -> UnderAttack:
    """Images of 4 grey pixels against `Two`."""
    model = load_model(Two(), shape=(1, 2, 2), classes=2)
    settings = {"pgd": (1, 4), "step_size": 0.05, "effort": Effort(4, 1, (1, 2), 2, 1, 2), "seed": 0, **more}
    return UnderAttack(model, x, y, torch.arange(len(y)), Linf(0.1), **settings)  # type: ignore[arg-type]


def grey(*means: float) -> Tensor:
    return torch.tensor(means).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def test_the_whole_table_runs_and_is_not_made_twice(tmp_path: Path, monkeypatch) -> None:
    told: list[tuple[str, int]] = []
    lab = Lab(
        small("train", 120), small("test", 20), tmp_path, progress=lambda what, done, _: told.append((what, done))
    )
    outcome = asked().run(lab)
    names = [column.name for column in outcome.columns]
    pgd = [f"{kind}PGD-{steps}" for kind in ("", "own-label ", "targeted ") for steps in (1, 2)]
    assert names == ["net", "defence", "clean", *pgd, "adaptive, K = 1"]
    ours = [row for row in outcome.rows if "published" not in str(row[1])]
    defences = ["none", "Gaussian noise", "rotation", "Xie et al.", "Guo et al.", "MI-PL", "MI-OL", "MI-Combined"]
    assert [row[:2] for row in ours] == [("mixup", each) for each in defences]
    cells = [cell for row in ours for cell in row[2:]]
    assert all(isinstance(cell, Interval) and cell.n == 6 and cell.low <= cell.value <= cell.high for cell in cells)
    assert ("mixup", "MI-OL, CIFAR-10, published", 0.839) in [
        (*row[:2], getattr(row[2], "value", 0)) for row in outcome.rows
    ]
    assert told[-1] == ("mixup, MI-Combined", 100) and outcome.chart.to_dict()
    assert "tau" in outcome.caption and "none of them tested on" in outcome.caption

    monkeypatch.setattr(under_attack, "searches", None)
    monkeypatch.setattr(under_attack, "evaluations", None)
    again = asked().run(lab)
    assert again.rows == outcome.rows and again.verdict == outcome.verdict


def test_partners_that_are_tested_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="lie in the pool"):
        asked().run(Lab(small("train", 120), small("train", 120), tmp_path))


@pytest.mark.parametrize(
    ("pair", "error"),
    [('nets=["mixup", "mixdown"]', UnknownName), ("nets=[]", BadValue), ("pgd=[]", BadValue), ("budgets=[]", BadValue)],
)
def test_what_makes_no_sense_is_refused(pair: str, error: type) -> None:
    with pytest.raises(error):
        asked(pair)


def test_own_label_leads_misclassified_images_towards_their_class() -> None:
    found = bench(grey(0.45, 0.45), torch.tensor([0, 1])).points  # the net says 0: right, then wrong
    own, true = found["own-label PGD-4"], found["PGD-4"]
    assert (own[0] == true[0]).all() and own[1].mean() > 0.5 > true[1].mean()
    assert found["targeted PGD-4"][1].mean() < 0.45  # towards the one wrong class
    for name, x in found.items():
        assert (x - grey(0.45, 0.45)).abs().max() <= 0.1 + 1e-6, name


def test_fewer_steps_are_the_beginning_of_more() -> None:
    long, short = (bench(grey(0.4, 0.6), torch.tensor([0, 1]), pgd=pgd).points for pgd in ((1, 4), (1,)))
    assert (long["PGD-1"] == short["PGD-1"]).all() and (long["PGD-1"] != long["PGD-4"]).any()


def test_the_adaptive_attack_is_not_weaker_than_the_oblivious_one(tmp_path: Path) -> None:
    y = torch.tensor([0, 0, 1, 1])
    trial = bench(grey(0.3, 0.45, 0.55, 0.7), y, effort=Effort(4, 1, (1, 2), 20, 1, 20))
    found = trial.answers(GaussianNoise(sigma=0.2, num_draws=2), tmp_path, "noise")
    right = {name: (np.array(said) == y.numpy()[:, None]).mean() for name, said in found.defended.items()}
    assert list(right) == ["clean", *(name for name in trial.points if "PGD" in name), column_of(1), column_of(2)]
    worst = min(right[name] for name in right if "PGD" in name)
    assert right[column_of(2)] <= right[column_of(1)] + 0.05 <= worst + 0.1 and right["clean"] > 0.6
    assert set(found.model) == {*right, MARGIN} and all(len(said) == 4 for said in found.model.values())


def test_answers_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    trial = bench(grey(0.3, 0.7), torch.tensor([0, 1]))
    for defence in (GaussianNoise(num_draws=2), GaussianNoise(num_draws=3), GaussianNoise(num_draws=2)):
        trial.answers(defence, tmp_path, "noise")
    assert len(list(tmp_path.iterdir())) == 2


def table(net: str, *, pl: int, ol: int, aimed: int, adaptive: int) -> Table:
    """100 images, of which the net has 70 right, 10 when aimed at, none under attack, and the defences so many."""
    right = {"none": (70, 10, 0), "MI-PL": (pl, 10, 0), "MI-OL": (ol, aimed, adaptive)}
    columns = ("clean", "aimed", "adaptive")
    so_many = {n: (np.arange(100) < n)[:, None] for row in right.values() for n in row}
    return Table(net, {name: dict(zip(columns, map(so_many.get, row))) for name, row in right.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "reproduced"),
    [
        ({}, True),
        ({"pl": 60}, False),
        ({"ol": 70}, False),
        ({"ol": 45}, False),
        ({"aimed": 15}, False),
        ({"adaptive": 9}, False),
    ],
)
def test_the_verdict_reads_the_numbers(changed: dict[str, int], reproduced: bool) -> None:
    seen = {"pl": 69, "ol": 62, "aimed": 35, "adaptive": 2, **changed}
    found = verdict([table("mixup", **seen)], "aimed", "adaptive")
    assert found.reproduced is reproduced
    assert f"{seen['aimed'] - 10:+.1f} points" in found.seen and "(mixup)" in found.seen


def test_the_published_tables() -> None:
    assert published("mixup", "MI-PL", 10) == ("CIFAR-10", {})
    name, found = published("interpolated", "MI-OL", 100)
    assert (
        name == "CIFAR-100"
        and list(found) == list(COLUMNS)
        and found["targeted PGD-200"] == Interval(0.565, 1000, -math.inf, math.inf)
    )
    for classes in (10, 100):
        rows = [
            published(net, each, classes)[1] for net in NETS for each in ("none", "MI-OL", "MI-Combined", "Guo et al.")
        ]
        for row in filter(None, rows):
            assert len(row) == 7
            kinds = [[row[f"{kind} PGD-{steps}"] for steps in (10, 50, 200)] for kind in ("own-label", "targeted")]
            for kind in kinds:  # more steps never help
                values = [cell.value for cell in kind if isinstance(cell, Interval)]
                assert values == sorted(values, reverse=True)


def test_under_the_adaptive_attack_the_net_answers_for_all_points_that_anyone_found() -> None:
    clean, pgd, margin = (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1)
    said = {"clean": clean, "PGD-1": pgd, MARGIN: margin}
    answers = [
        Answers(defended={}, model={**said, "a": (0, 0, 0, 0)}),
        Answers(defended={}, model={**said, "a": (0, 1, 0, 0)}),
    ]
    found = undefended(answers, np.zeros(4, dtype=np.int64), ["a"])
    assert {key: each[:, 0].tolist() for key, each in found.items()} == {
        "clean": [True] * 4,
        "PGD-1": [True, True, True, False],
        "a": [True, False, False, False],
    }
