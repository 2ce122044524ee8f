"""Robustness at odds with accuracy: closed forms, frontier, phase transition, theorem 2.1 on any model, the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from holdfast.experiments.odds import monte_carlo, nets, trained
from holdfast.experiments.odds.settings import Odds
from holdfast.experiments.perceptron import Perceptron
from holdfast.experiments.theory import configured
from holdfast.foundation.errors import BadData, BadValue, UnknownName
from holdfast.foundation.stats import Interval
from holdfast.probes import odds_drawn, odds_linear
from holdfast.probes.odds import (
    Linear,
    Population,
    accuracy,
    averaging,
    bayes,
    best,
    best_linear,
    bound,
    ceiling,
    first_alone,
    linear,
    most_accurate,
    traded,
)
from holdfast.probes.odds_svm import covered, hinge, machine

PAPER = Population(d=100, p=0.95, eta=0.4)
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def test_f_avg_is_as_published() -> None:
    """Tsipras et al., section 2.1: above 99 % from eta = 3 / sqrt(d) on, below 1 % at 2 eta."""
    for d, m in ((100, 3), (400, 4)):
        population = Population(d, 0.95, m / math.sqrt(d))
        line = averaging(population)
        assert accuracy(population, line) == pytest.approx(float(ndtr(m))) and accuracy(population, line) > 0.99
        assert accuracy(population, line, 2 * population.eta) == pytest.approx(float(ndtr(-m)))
        assert accuracy(population, line, 0.7, "l2") == pytest.approx(float(ndtr(m - 0.7)))


def test_the_trade_off_is_one_of_linf() -> None:
    population = Population(1000, 0.95, 4 / math.sqrt(1000))
    line = averaging(population)
    assert accuracy(population, line, 1.0, "l2") == pytest.approx(0.9987, abs=5e-5)
    assert accuracy(population, line, 0.253) < 5e-5


def test_x1_alone_stands_below_one_and_falls_there() -> None:
    for norm in ("linf", "l2"):
        assert [accuracy(PAPER, first_alone(PAPER), eps, norm) for eps in (0, 0.8, 0.999, 1)] == [0.95, 0.95, 0.95, 0]


@pytest.mark.parametrize(
    ("ratio", "of_all", "of_linear", "of_bayes", "of_average"),
    [
        (0.25, 0.9995, 0.9994, 0.9994, 0.9987),
        (0.5, 0.9919, 0.9889, 0.9867, 0.9772),
        (0.75, 0.9595, 0.9500, 0.8859, 0.8413),
        (1.0, 0.9500, 0.9500, 0.5732, 0.5000),
        (2.0, 0.9500, 0.9500, 0.0000, 0.0000),
    ],
)
def test_the_best_at_each_eps(ratio, of_all, of_linear, of_bayes, of_average) -> None:
    eps = ratio * PAPER.eta
    found = [accuracy(PAPER, line, eps) for line in (best_linear(PAPER, eps), bayes(PAPER), averaging(PAPER))]
    assert [best(PAPER, eps), *found] == pytest.approx([of_all, of_linear, of_bayes, of_average], abs=5e-5)


def test_the_best_beyond_one() -> None:
    """x_1 tells nothing any more: a coin, or the weak features where they survive."""
    assert best(PAPER, 1.0) == 0.5
    assert best(Population(4, 0.95, 2.0), 1.5) == pytest.approx(float(ndtr(1.0)))


@pytest.mark.parametrize(
    ("t", "standard", "robust"),
    [
        (1, 0.9999, 0.0013),
        (2, 0.9989, 0.0216),
        (3, 0.9921, 0.1507),
        (4, 0.9750, 0.4750),
        (5, 0.9579, 0.7993),
        (6, 0.9511, 0.9284),
        (8, 0.9500, 0.9500),
    ],
)
def test_points_of_the_frontier(t, standard, robust) -> None:
    found = traded(PAPER, t)
    assert (found.standard, found.robust) == pytest.approx((standard, robust), abs=5e-5)
    assert ceiling(PAPER, found.standard) == pytest.approx(found.robust, abs=1e-6)
    over = (2 * 0.95 - 1) / 0.05 * float(ndtr(-4 - t))  # by how much theorem 2.1 is above the truth
    assert bound(PAPER, found.standard) == pytest.approx(found.robust + over, abs=1e-9)


def test_the_frontier_begins_at_bayes() -> None:
    begin = most_accurate(PAPER)
    assert traded(PAPER, begin).standard == pytest.approx(accuracy(PAPER, bayes(PAPER)), abs=1e-12)
    assert ceiling(PAPER, 1.0) == traded(PAPER, begin).robust
    assert ceiling(PAPER, 0.7) == 0.7  # whoever errs by choice, on the rows that an adversary could turn


POPULATIONS = st.builds(
    Population, d=st.integers(1, 40), p=st.floats(0.5, 0.99), eta=st.floats(0.02, 0.49, exclude_max=True)
)


@settings(max_examples=150, deadline=None)
@given(POPULATIONS, st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 1.2))
def test_no_linear_classifier_lies_above_anything(population, seed, even, bias, eps) -> None:
    """Exact accuracies of random weights, biases and populations: below the bound, the frontier and the best."""
    draws = np.random.default_rng(seed)
    w = even + (1 - even) * draws.normal(size=population.d + 1)
    w[0] *= draws.choice([0.1, 1, 10])
    line = Linear(w, bias)
    standard, robust = accuracy(population, line), accuracy(population, line, 2 * population.eta)
    assert robust <= bound(population, standard) + 1e-9
    assert robust <= ceiling(population, standard) + 1e-6
    assert accuracy(population, line, eps) <= best(population, eps) + 1e-9
    assert accuracy(population, line, eps, "l2") >= accuracy(population, line, eps) - 1e-9


@settings(max_examples=60, deadline=None)
@given(POPULATIONS, st.floats(0, 0.99), st.floats(0, math.pi / 2))
def test_the_best_linear_classifier_is_the_best_of_all_angles(population, eps, angle) -> None:
    other = linear(population, math.cos(angle), math.sin(angle))
    assert accuracy(population, best_linear(population, eps), eps) >= accuracy(population, other, eps) - 1e-9


def test_closed_forms_against_monte_carlo_over_a_grid() -> None:
    """Five classifiers, seven Linf and three L2 radii, three populations: all within 3 standard errors."""
    drawn = draws = 0
    for seed, population in enumerate((PAPER, Population(30, 0.7, 0.3), Population(5, 0.9, 0.45))):
        rows = odds_drawn.sample(population, 20_000, seed)
        skewed = Linear(np.random.default_rng(seed).normal(0.5, 1, population.d + 1), 0.3)
        lines = (
            first_alone(population),
            averaging(population),
            bayes(population),
            best_linear(population, 0.1),
            skewed,
        )
        for norm, radii in (("linf", [ratio * population.eta for ratio in RATIOS]), ("l2", [0.3, 1.0, 2.5])):
            for eps in radii:
                for line in lines:
                    x = odds_drawn.worst(line, rows, eps, norm)
                    assert (
                        eps == 0 or float((x - rows.x).norm(torch.inf if norm == "linf" else 2, 1).max()) <= eps + 1e-5
                    )
                    right = odds_drawn.right(odds_drawn.scoring(line), x, rows.y)
                    off = odds_drawn.errors_apart(trained._share(right), accuracy(population, line, eps, norm))
                    draws += 1
                    drawn += abs(off) > 3
    assert draws == 150 and drawn == 0


def test_the_classifiers_of_the_frontier_against_monte_carlo() -> None:
    rows = odds_drawn.sample(PAPER, 20_000, 3)
    for t in (0.3, 2, 4, 6):
        score = odds_drawn.voting(PAPER, t)
        for eps, exact in ((0.0, traded(PAPER, t).standard), (0.8, traded(PAPER, t).robust)):
            right = odds_drawn.right(score, rows.x - eps * rows.y[:, None], rows.y)
            assert abs(odds_drawn.errors_apart(trained._share(right), exact)) < 3


def test_a_sample_does_not_depend_on_its_length() -> None:
    whole, part = odds_drawn.sample(PAPER, 50, 7), odds_drawn.sample(PAPER, 10, 7, first=20)
    assert torch.equal(whole.x[20:30], part.x) and torch.equal(whole.y[20:30], part.y)
    assert not torch.equal(whole.x, odds_drawn.sample(PAPER, 50, 8).x)


@pytest.mark.parametrize(
    ("ratio", "degrees", "standard", "robust"),
    [
        (0, 69.4, 1.0, 0.00004),
        (0.5, 54.4, 1.0, 0.00005),
        (0.9, 15.4, 0.9821, 0.0005),
        (0.98, 8.0, 0.9501, 0.0046),
        (1, 0, 0.95, 0.95),
        (2, 0, 0.95, 0.95),
    ],
)
def test_the_angle_of_the_machine(ratio, degrees, standard, robust) -> None:
    found = machine(PAPER, ratio * PAPER.eta)
    assert found.degrees == pytest.approx(degrees, abs=0.05)
    assert (found.odds.standard, found.odds.robust) == pytest.approx((standard, robust), abs=5e-5)
    assert np.linalg.norm(found.classifier.w) == pytest.approx(1)


def test_theorem_2_2_and_its_phase_transition() -> None:
    """In several populations that it covers: at eta, and not before, nothing is left of the weak features."""
    for population in (PAPER, Population(1000, 0.975, 4 / math.sqrt(1000)), Population(400, 0.8, 0.25)):
        assert covered(population)
        plain = machine(population, 0).odds
        assert plain.standard > 0.99 and plain.robust < 0.01
        assert machine(population, 0.99 * population.eta).degrees > 1
        for ratio in (1.0, 1.7):
            found = machine(population, ratio * population.eta)
            assert found.degrees == 0 and found.odds.standard == found.odds.robust == population.p
    assert not covered(Population(100, 0.95, 0.3)) and not covered(Population(100, 0.98, 0.4))


def test_the_hinge_loss_against_its_average() -> None:
    rows = odds_drawn.sample(PAPER, 20_000, 0)
    for degrees, eps in ((0.0, 0.1), (30.0, 0.0), (69.0, 0.2), (90.0, 0.3)):
        line = linear(PAPER, math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
        margin = rows.y * odds_drawn.scoring(line)(odds_drawn.worst(line, rows, eps))
        lost = (1 - margin).clamp(min=0).double()
        error = float(lost.std()) / math.sqrt(len(lost))
        assert float(hinge(PAPER, np.array([degrees]), eps)[0]) == pytest.approx(
            float(lost.mean()), abs=3 * error + 1e-6
        )


def test_theorem_2_1_on_any_model() -> None:
    """The shifted rows say what the unshifted ones imply, for models with no symmetry at all, and the bound holds."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(101, 1)
    scores = {
        "untrained": lambda x: layer(x)[:, 0],
        "one-sided": lambda x: x[:, 1:].mean(1) + 0.2,
        "crooked": lambda x: x[:, 0] * (x[:, 1] > 0.5) + x[:, 2] * x[:, 3] + 0.3,
        "constant": lambda x: torch.ones(len(x)),
        "best": odds_drawn.voting(PAPER, 2.0),
    }
    for name, score in scores.items():
        found = odds_drawn.shifted(PAPER, score, n=4000, seed=1)
        assert abs(found.apart) < 3 and found.above < 3, name
        assert found.robust.value == pytest.approx(found.implied, abs=0.05)
    assert found.standard.value == pytest.approx(0.9989, abs=1e-3) and found.ceiling == pytest.approx(0.02, abs=0.01)


def test_what_no_classifier_can_be_is_found_out() -> None:
    """Right on every row before and after the shift: the check must see that this is no function of x."""
    knows = odds_drawn.sample(PAPER, 500, 1).y
    found = odds_drawn.shifted(PAPER, lambda x: knows, n=500, seed=1)
    assert found.apart > 3 and found.above > 3


def test_exact_training_is_the_optimum_of_the_worst_case_loss() -> None:
    """No perturbation of the solution has a lower loss; the loss is computed here by its definition."""
    draws = np.random.default_rng(0)
    x, y = draws.uniform(size=(60, 5)), np.where(draws.uniform(size=60) < 0.5, 1.0, -1.0)
    x[:, 0] = np.clip(x[:, 0] + 0.3 * y, 0, 1)
    eps, decay = 0.1, 0.01

    def loss(w: np.ndarray, b: float) -> float:
        worst = np.clip(x - eps * y[:, None] * np.sign(w), 0, 1)
        return float(np.logaddexp(0, -y * (worst @ w + b)).mean()) + decay / 2 * float(w @ w)

    found = odds_linear.fit(odds_linear.linf(x, y, eps, box=(0, 1)), decay=decay)
    least = loss(found.w, found.b)
    for _ in range(200):
        step = draws.normal(size=6) * 10 ** draws.uniform(-3, 0)
        assert loss(found.w + step[:5], found.b + step[5]) >= least - 1e-7


def test_exact_robust_accuracy_is_that_of_the_corners() -> None:
    draws = np.random.default_rng(1)
    x, y = draws.uniform(size=(200, 4)), np.where(draws.uniform(size=200) < 0.5, 1.0, -1.0)
    line, eps = Linear(draws.normal(size=4), 0.1), 0.2
    corners = np.array(np.meshgrid(*[(-eps, eps)] * 4)).reshape(4, -1).T
    moved = np.clip(x[:, None] + corners, 0, 1)
    kept = (y[:, None] * (moved @ line.w + line.b) > 0).all(1)
    assert odds_linear.robust(line, odds_linear.linf(x, y, eps, box=(0, 1))).value == kept.mean()


def test_at_a_radius_of_two_eta_fifty_rows_suffice() -> None:
    rows = odds_drawn.sample(PAPER, 50, 0)
    reached = {}
    for ratio in (0, 1, 2):
        reach = odds_linear.linf(rows.x.numpy(), rows.y.numpy(), ratio * PAPER.eta)
        line = odds_linear.fit(reach, bias=False)
        reached[ratio] = accuracy(PAPER, line), accuracy(PAPER, line, 0.8)
    assert reached[2] == pytest.approx((0.95, 0.95), abs=1e-6)
    assert reached[1][1] < 0.1 and reached[0][1] < 0.001 and reached[0][0] > 0.99


def test_correlations_and_weights() -> None:
    y = np.array([1.0, -1.0, 1.0, -1.0])
    x = np.array([[1, 0.5, 0], [0, 0.5, 0], [1, 0.5, 1], [0, 0.5, 1]])
    assert odds_linear.correlations(x, y) == pytest.approx([1, 0, 0])
    assert odds_linear.weight_below(Linear(np.array([3.0, 1.0, 0.0])), np.array([0.9, 0.1, 0.1]), 0.2) == 0.25
    assert odds_linear.weight_below(Linear(np.zeros(3)), np.ones(3), 0.2) == 0


def test_nets_see_the_rows_and_attacks_miss_the_box() -> None:
    around = nets.frame(PAPER, 0.0)
    rows = odds_drawn.sample(PAPER, 2000, 0)
    for by in (-0.8, 0.8):
        image = around.image(rows.x + by)
        assert image.shape == (2000, 1, 1, 101) and float(image.min()) > 0 and float(image.max()) < 1
    net = Perceptron(PAPER.d + 1, 3, around.half)
    assert torch.allclose(net(around.image(rows.x)), net.layers(rows.x), atol=1e-4)


def test_settings_are_checked() -> None:
    assert Odds().population == PAPER
    assert configured(Odds, "odds", ["d=400", "radii=[0, '8/255']"]).radii == (0, 8 / 255)
    for pairs, what in (
        (["d=64"], "2 eta must be below 1"),
        (["p=1.0"], "p 1.0"),
        (["machines=[0.5, 1]"], "begins at 0.5"),
        (["sizes=[20]"], "sizes is"),
        (["ratios=[0, 3]"], "ratios ends at 3"),
        (["n=1"], "n is 1"),
        (["d=many"], "d is 'many'"),
    ):
        with pytest.raises(BadValue, match=what):
            configured(Odds, "odds", pairs)
    with pytest.raises(UnknownName, match="setting of odds"):
        configured(Odds, "odds", ["radius=1"])
    with pytest.raises(BadValue, match="in \\[0, 1\\) only"):
        traded(PAPER, 1.0, 1.0)
    with pytest.raises(BadValue, match="n is 1"):
        odds_drawn.shifted(PAPER, odds_drawn.voting(PAPER, 1), n=1)
    with pytest.raises(BadData, match="one class"):
        odds_linear.fit(odds_linear.linf(np.ones((3, 2)), np.ones(3), 0.1))


def test_a_closed_form_that_is_off_is_said_loudly(monkeypatch) -> None:
    monkeypatch.setattr(monte_carlo, "accuracy", lambda *given: min(1.0, accuracy(*given) + 0.05))
    part = monte_carlo.accuracies(Odds(n=2000))
    assert not part.outcome.verdict.reproduced and part.breaches
    assert "standard errors from the closed form" in part.breaches[0]
    assert odds_drawn.errors_apart(Interval(0.6, 100, 0, 1), 0.5) == pytest.approx(2)


SMALL = (
    "n=500",
    "trained=[0, 2]",
    "rows=300",
    "epochs=1",
    "attack_steps=1",
    "judged=50",
    "checked=500",
    "hidden=4",
    "samples=[50, 60]",
    "num_seeds=2",
    "images=60",
    "radii=[0, 0.2]",
    "thresholds=[0, 0.5]",
    "sizes=[20, 30]",
    "sizes_radii=[0, 0.1]",
)
PARTS = ("accuracy", "best", "svm", "frontier", "samples", "pixels", "sizes")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_command(cli, tmp_path: Path) -> None:
    pairs = [word for pair in SMALL for word in ("--set", pair)]
    ran = cli("theory", "odds", "--out", tmp_path / "odds", "-q", *pairs)
    assert ran.code == 0 and "CONTRADICTION" not in ran.out
    for part in PARTS:
        assert f"\n{part}. " in f"\n{ran.out}"
        assert all((tmp_path / "odds" / f"{part}.{end}").stat().st_size > 0 for end in ("csv", "svg", "png"))
    info = json.loads((tmp_path / "odds" / "theory.json").read_text())
    assert list(info["parts"]) == list(PARTS) and info["configuration"]["eta"] == 0.4
    text = (tmp_path / "odds" / "theory.md").read_text()
    assert all(said["seen"] in text for said in info["parts"].values())
    angle = table(tmp_path / "odds" / "svm.csv")[0]
    assert float(angle["angle, degrees"]) == pytest.approx(69.44, abs=0.01) and "69.4 degrees" in ran.out
    for row in table(tmp_path / "odds" / "frontier.csv"):
        assert float(row["robust at 2 eta: low"]) <= float(row["bound, %"]) / 100 + 1e-9


def test_the_command_refuses_other_theories(cli, tmp_path: Path) -> None:
    ran = cli("theory", "evens", "--out", tmp_path)
    assert ran.code == 2 and "unknown theory 'evens'" in ran.err
    assert cli("theory", "odds", "--out", tmp_path, "--set", "classes=['5', 'x']", "-q").code == 2
