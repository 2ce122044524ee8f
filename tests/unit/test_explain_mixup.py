"""Mixup as a question: its numbers are those of the theory, its partners are known images, its figures come from arrays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.ascent.inner import worst
from holdfast.attacks.pgd import PGD
from holdfast.audit.defended.options import pool_from
from holdfast.data.arrays import Arrays, from_pair
from holdfast.explain.case import Case, Net, Role
from holdfast.explain.found import Found
from holdfast.explain.questions.mixup import PARTNERS, Mixup
from holdfast.explain.run import Speed, planned
from holdfast.foundation.errors import BadData, BadValue
from holdfast.models.load import load
from holdfast.probes.mixup_theory import mixup_theory
from holdfast.threats.linf import Linf

ASKED = Mixup(per_class=3, lam=(1.0, 0.2, 0.6), num_draws=2, steps=3)


class Halves(nn.Module):
    """The logits are the mean brightness of the left and of the right half, times ``slope``."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * torch.stack([half.flatten(1).mean(1) for half in x.chunk(2, dim=3)], 1)


def drawn(n: int, seed: int) -> Arrays:
    """Images of which every other is brighter on its right."""
    draws, labels = np.random.default_rng(seed), np.arange(n) % 2
    pixels = draws.uniform(0.4, 0.6, (n, 1, 4, 4))
    pixels[labels == 0, :, :, :2] += 0.15
    pixels[labels == 1, :, :, 2:] += 0.15
    return from_pair(pixels, labels, name=f"drawn {seed}")


def net(slope: float, name: str, role: Role = "model") -> Net:
    return Net(name, load(Halves(slope), shape=(1, 4, 4)), role)


@pytest.fixture(scope="module")
def case() -> Case:
    nets = (net(8.0, "model"), net(8.0, "same", "twin"), net(-8.0, "upside down", "untrained"))
    return Case(nets, drawn(10, 0), Linf(0.15), drawn(12, 1))


@pytest.fixture(scope="module")
def found(case: Case) -> Found:
    return ASKED.ask(case, lambda *_: None)


def test_the_numbers_are_those_of_the_theory(case: Case, found: Found) -> None:
    first = case.nets[0]
    batch = case.batch(first)
    x = case.threat.project(batch.x, worst(PGD(steps=3), first.model, case.rows(batch)))
    assert case.known is not None
    pool = pool_from(case.known, per_class=3, seed=0)
    expected = mixup_theory(first.model.module, batch.x, x, batch.y, pool, lam=(0.2, 0.6, 1.0), num_draws=2)
    assert expected.n == found.words["nets"]["model"] > 3 and found.arrays["lam"].tolist() == [0.2, 0.6, 1.0]
    for place, mode in enumerate(PARTNERS):
        mixing, table = getattr(expected, mode), found.tables[place]
        arrays = {key.partition(f"/{mode}/")[2]: each for key, each in found.arrays.items() if key.startswith("model/")}
        for key, curve in (("clean", mixing.clean), ("yhat", mixing.yhat), ("paired y", mixing.paired.y)):
            assert np.array_equal(arrays[key], np.array([(each.value, each.low, each.high) for each in curve]).T)
        assert arrays["threshold y"].tolist() == list(mixing.threshold_y)
        assert [row[0] for row in table.rows] == ["model"] * 3 + ["same"] * 3
        assert [row[1] for row in table.rows[:3]] == [0.2, 0.6, 1.0]
        assert table.rows[0][3] == pytest.approx(mixing.y[0].value, abs=1e-6)
        assert [row[-1] for row in table.rows[:3]] == list(mixing.recovered)
        assert [row[7] for row in table.rows[:3]] == [
            *("holds" if each else "fails" for each in mixing.improves[:2]),
            "",
        ]


def test_equal_nets_are_answered_alike_and_again_alike(case: Case, found: Found) -> None:
    for table in found.tables:
        assert [row[1:] for row in table.rows[:3]] == [row[1:] for row in table.rows[3:]]
    assert found.sentences[-1].endswith("no difference is seen.") and "same's" in found.sentences[-1]
    again = ASKED.ask(case, lambda *_: None)
    assert again.tables == found.tables and again.sentences == found.sentences


def test_a_net_that_nothing_can_be_said_of_is_left_out(case: Case, found: Found) -> None:
    assert "upside down" not in found.words["nets"] and any(
        "upside down is left out: none" in each for each in found.caveats
    )
    assert not found.breaches
    broken = replace(case.nets[1], model=replace(case.nets[1].model, module=Halves(math.nan)))
    for nets, names in (((case.nets[0], broken), ["model"]), ((broken,), [])):
        told = ASKED.ask(replace(case, nets=nets), lambda *_: None)
        assert (
            list(told.words["nets"]) == names and "not finite" in told.breaches[0] and bool(told.tables) == bool(names)
        )
        assert len(ASKED.draw(told)) == len(names)


def test_every_net_has_its_figure_on_the_same_scales(found: Found) -> None:
    figures = ASKED.draw(found)
    assert [figure.name for figure in figures] == ["mixing_1", "mixing_2"]
    scales = []
    for figure in figures:
        rows = figure.chart.to_dict()["vconcat"]
        panels = [panel for row in rows for panel in row["hconcat"]]
        scales.append([panel["layer"][1]["encoding"]["y"]["scale"]["domain"] for panel in panels])
    assert scales[0] == scales[1] and len(scales[0]) == 6 and scales[0][0] == [0, 1] and scales[0][2] == scales[0][5]


def test_partners_are_known_images_that_are_not_under_test(case: Case) -> None:
    speed = Speed(1.0, 2.0)
    with pytest.raises(BadValue) as caught:
        planned(replace(case, known=None), {"mixup": ASKED}, speed)
    assert "--train" in str(caught.value)
    with pytest.raises(BadValue, match="no known images"):
        ASKED.ask(replace(case, known=None), lambda *_: None)
    with pytest.raises(BadData, match="under test lie in the pool"):
        ASKED.ask(replace(case, known=case.source), lambda *_: None)
    (question,) = planned(case, {"mixup": ASKED}, speed)
    assert question.n == 10 and question.effort.forwards == 10 * (3 * 3 + 2 * 6 * 2 * 3)


@pytest.mark.parametrize(
    "setting", [{"lam": ()}, {"lam": (0.5, 1.5)}, {"num_draws": 0}, {"per_class": 0}, {"steps": 0}]
)
def test_what_makes_no_sense_is_refused(setting: dict) -> None:
    with pytest.raises(BadValue):
        Mixup(**setting)
