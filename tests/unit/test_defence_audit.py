"""A model behind a defence: what is attacked, scored, written, resumed, refused and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast import keys
from holdfast.audit.defended import run
from holdfast.audit.defended.api import describe_defended
from holdfast.audit.defended.bench import Subject
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.options import built, calibrated, pool_from
from holdfast.audit.defended.views import Averaged, Counted, Redrawn, Tally, cost, entrances, num_draws, sampled
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.defences.average import Average
from holdfast.defences.bn_adaptation import BNAdaptation
from holdfast.defences.defence import Opening
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.defences.jpeg_compression import JpegCompression
from holdfast.defences.mixup_inference import MixupInference
from holdfast.foundation.errors import BadData, BadModel, BadValue, PlanMismatch, UnknownName
from holdfast.imaging.pool import Pool
from holdfast.models.load import load as load_model
from holdfast.records.defended import FOLDER, OBLIVIOUS, POINTS, DefendedSummary, attacked, read_defended
from holdfast.records.part import OUTCOMES, SUMMARY
from holdfast.report.page import render
from holdfast.threats.linf import Linf

N = 12
QUICK = {"steps": 3, "restarts": 1, "budgets": (1, 3), "evaluations": 4, "tries": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(run, "QUERIES", 10)


class Sides(nn.Module):
    """Two classes by which half of the image is brighter: linear, so that a radius takes a known part of the margin."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        return self.scale * torch.stack([left, right], 1)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Images whose halves differ by 0.1 to 0.3: Linf 0.1 turns those below 0.2, which is half of them."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, N)
    gap = np.repeat(np.linspace(0.1, 0.3, N // 2), 2) / 2
    images = 0.5 + draw.uniform(-0.01, 0.01, (N, 1, 8, 8))
    images += np.where(np.arange(8) < 4, 1, -1) * (np.where(labels == 0, 1, -1) * gap)[:, None, None, None]
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def pool() -> Pool:
    draw = torch.Generator().manual_seed(1)
    return Pool.of(torch.rand(20, 1, 8, 8, generator=draw), torch.arange(20) % 2, source="noise")


@dataclass(frozen=True)
class Flips:
    """A defence that answers a coin in place of the model, one time in ``one_in``: pure randomness."""

    transductive: ClassVar[bool] = False
    one_in: float = 4.0

    def wrap(self, module: nn.Module) -> Flipping:
        return Flipping(module, self.one_in, (0,))

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        return Opening("core", module), Opening("defended", self.wrap(module))


@dataclass(frozen=True)
class Flipping:
    core: nn.Module
    one_in: float
    evaluation: tuple[int, ...]

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        key = keys.root(3)
        for number in self.evaluation:
            key = keys.fold(key, number)
        key = key.expand(len(x)) if ids is None else keys.fold(key, ids)
        flipped = keys.uniform(key, (1,)) * self.one_in < 1
        logits = self.core(x)
        return torch.where(flipped, logits.flip(1), logits)

    def at(self, *evaluation: int) -> Flipping:
        return Flipping(self.core, self.one_in, evaluation)


def test_a_linear_model_loses_what_the_radius_says_and_jpeg_gains_nothing(data, tmp_path: Path) -> None:
    found = holdfast.audit_defence(Sides(), data, JpegCompression(90), threat=Linf(0.1), out=tmp_path / "r", **QUICK)
    summary = found.summary
    assert summary.undefended_clean.value == 1 and not summary.randomised
    assert summary.undefended.value == pytest.approx(0.5, abs=0.1)
    assert summary.adaptive.mean.value <= summary.oblivious.mean.value <= summary.undefended.value + 0.2
    assert found.verdict == "no gain over the undefended model" and summary.gain.low <= 0
    assert summary.adaptive.mean == summary.adaptive.worst == summary.adaptive.majority
    assert found.right["adaptive"].shape == (N, 1) and found.right["adaptive"].mean() == summary.adaptive.mean.value
    assert {each.check: each.holds for each in summary.sanity}["large radius"] is True
    assert summary.cost == summary.cost_attacked == 1 and summary.gradients > 0
    page = render([tmp_path / "r"], tmp_path / "page.html").read_text()
    assert 'id="defended"' in page and "No gain over the undefended model" in page and 'id="curve"' not in page


def test_points_lie_within_the_radius_and_score_as_written(data, pool, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    defence = MixupInference(pool, pl=Average(0.6, 3), ol=Average(0.6, 3))
    found = holdfast.audit_defence(Sides(), data, defence, threat=Linf(0.1), out=tmp_path / "r", **QUICK)
    info = read_defended(tmp_path / "r")
    assert [each.name for each in info.openings] == ["defended", "pl", "ol", "both"] and info.randomised
    assert info.pools[0].source == "noise" and info.pools[0].fingerprint == pool.fingerprint
    assert info.settings["ol.lam"] == 0.6 and info.settings["pl.num_draws"] == 3
    lines = {line.stage: line for line in attacked(tmp_path / "r")}
    stage = f"adaptive-{found.summary.curve[-1].budget}"
    x = torch.from_numpy(load_file(tmp_path / "r" / FOLDER / POINTS / f"{stage}-0.safetensors")["x"])
    assert float((x - torch.from_numpy(data[0])).abs().max()) <= 0.1 + 1e-6
    wrapped = defence.wrap(Sides())
    with torch.no_grad():
        said = torch.stack([wrapped.at(k)(x, torch.arange(N)).argmax(1) for k in range(4)], 1)
    assert lines[stage].defended == tuple(map(tuple, said.tolist()))
    assert sum(found.summary.found.values()) == N and set(lines[OBLIVIOUS].found) <= {*lines[OBLIVIOUS].right, "clean"}
    assert found.summary.adaptive.mean.value <= found.summary.oblivious.mean.value + 0.05
    assert {each.check: each.holds for each in found.summary.sanity}["without its strength it is the model"]


def test_pure_randomness_has_four_accuracies(data) -> None:
    found = holdfast.audit_defence(
        Sides(), data, Flips(), threat=Linf(0.01), steps=2, restarts=1, budgets=(1,), evaluations=30, tries=3
    )
    clean = found.summary.clean
    assert found.summary.undefended.value == 1
    assert clean.mean.value == pytest.approx(0.75, abs=0.08)
    assert clean.worst.value == pytest.approx(0.75**3, abs=0.12)
    assert clean.majority.value == 1 and clean.unstable.value == pytest.approx(2 * 0.75 * 0.25, abs=0.08)
    assert found.summary.gain.value < 0 and found.verdict.startswith("no gain")


def test_a_stopped_run_goes_on_and_ends_the_same(data, tmp_path: Path) -> None:
    defence = GaussianNoise(0.1, num_draws=2)
    arguments = {"threat": Linf(0.1), **QUICK}
    whole = holdfast.audit_defence(Sides(), data, defence, out=tmp_path / "a", **arguments)
    lines = (tmp_path / "a" / FOLDER / OUTCOMES).read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines), 2):
        folder = tmp_path / f"b{kept}"
        (folder / FOLDER / POINTS).mkdir(parents=True)
        (folder / FOLDER / "run.json").write_bytes((tmp_path / "a" / FOLDER / "run.json").read_bytes())
        (folder / FOLDER / OUTCOMES).write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
        for points in (tmp_path / "a" / FOLDER / POINTS).iterdir():
            (folder / FOLDER / POINTS / points.name).write_bytes(points.read_bytes())
        again = holdfast.audit_defence(Sides(), data, defence, out=folder, **arguments)
        assert without_time(again.summary) == without_time(whole.summary)
    assert holdfast.audit_defence(Sides(), data, defence, out=tmp_path / "a", **arguments).summary == whole.summary
    with pytest.raises(PlanMismatch, match="settings"):
        holdfast.audit_defence(Sides(), data, replace(defence, sigma=0.2), out=tmp_path / "a", **arguments)


def without_time(summary: DefendedSummary) -> DefendedSummary:
    return summary.model_copy(update={"seconds": 0.0})


def test_what_cannot_be_evaluated_is_refused_before_any_work(data, pool, tmp_path: Path) -> None:
    def audited(model=Sides, defence=JpegCompression(), threat=Linf(0.1), **more):  # noqa: B008
        holdfast.audit_defence(model(), data, defence, threat=threat, out=tmp_path / "r", **{**QUICK, **more})

    with pytest.raises(BadValue, match="other images of a batch"):
        audited(defence=BNAdaptation())
    with pytest.raises(BadValue, match="l0"):
        audited(threat=holdfast.L0(3))
    with pytest.raises(BadModel, match="probabilities"):
        audited(model=lambda: nn.Sequential(Sides(), nn.Softmax(1)))
    with pytest.raises(BadData, match="lie in the pool"):
        own = Pool.of(torch.from_numpy(data[0]), torch.from_numpy(data[1]), source="the test images")
        audited(defence=MixupInference(own))
    for more in ({"steps": 0}, {"budgets": (5, 1)}, {"budgets": ()}, {"tries": 5}):
        with pytest.raises(BadValue):
            audited(**more)
    assert not (tmp_path / "r").exists()


def test_draws_are_counted_and_thinned(pool) -> None:
    x = torch.rand(3, 1, 8, 8)
    defence = MixupInference(pool, pl=Average(0.5, 4), ol=Average(0.5, 6), tau=-1.0)
    assert cost(defence, Sides(), x) == 11 and cost(JpegCompression(), Sides(), x) == 1
    thin = sampled(defence, 2)
    assert (thin.pl.num_draws, thin.ol.num_draws, thin.ol.lam, thin.pool) == (2, 2, 0.5, pool)
    assert num_draws(defence) == 6 and num_draws(JpegCompression()) == 0
    costs = {each.name: each.costs for each in entrances(defence, Sides(), 2, x, randomised=True)}
    assert costs["pl"].gradients == costs["ol"].gradients == 2 and costs["both"].gradients == 4
    assert costs["pl"].forwards == 3
    assert entrances(Flips(), Sides(), 5, x, randomised=True)[0].costs.gradients == 5
    assert entrances(JpegCompression(), Sides(), 5, x, randomised=False)[0].costs.gradients == 1
    tally = Tally()
    with pytest.raises(Exception):  # noqa: B017 - whatever a proxy raises: a trace must not count once for all
        torch.fx.symbolic_trace(Counted(Sides(), tally))
    assert tally.cost == [0, 0]


def test_an_average_is_that_of_probabilities_and_redrawn_draws_differ() -> None:
    x = torch.rand(6, 1, 8, 8)
    defended = GaussianNoise(sigma=0.5, num_draws=1).wrap(Sides())
    with torch.no_grad():
        parts = torch.stack([defended.at(7, k)(x).softmax(1) for k in range(5)]).mean(0)
        torch.testing.assert_close(Averaged(defended, 5).at(7)(x).exp(), parts)
        anew = Redrawn(defended).at(7)
        assert not torch.equal(anew(x), anew(x))
        torch.testing.assert_close(Redrawn(defended).at(7)(x), defended.at(7, 1)(x))


def test_defences_are_built_from_text(pool) -> None:
    made = built("mixup_inference", {"mode": "combined", "ol.lam": 0.6, "seed": 3}, pool=pool)
    assert made == MixupInference(pool, pl=Average(0.5, 5), ol=Average(0.6, 15), seed=3)
    assert built("mixup_inference", {}, pool=pool) == MixupInference(pool)
    assert built("mixup_inference", {"mode": "pl", "num_draws": 9}, pool=pool) == MixupInference(
        pool, pl=Average(0.5, 9), ol=None
    )
    assert built("gaussian_noise", {"sigma": 1, "num_draws": 4}) == GaussianNoise(1.0, 4)
    for name, options, given in (
        ("gaussian_noises", {}, None),
        ("gaussian_noise", {"sigmas": 1.0}, None),
        ("mixup_inference", {"ol.lambda": 0.5}, pool),
        ("mixup_inference", {"mode": "both"}, pool),
    ):
        with pytest.raises(UnknownName):
            built(name, options, pool=given)
    for name, options, given in (
        ("mixup_inference", {}, None),
        ("gaussian_noise", {}, pool),
        ("gaussian_noise", {"sigma": "much"}, None),
        ("gaussian_noise", {"num_draws": 2.5}, None),
        ("gaussian_noise", {"sigma.a": 2}, None),
        ("mixup_inference", {"mode": "ol", "pl.lam": 0.5}, pool),
        ("purifier", {}, None),
    ):
        with pytest.raises(BadValue):
            built(name, options, pool=given)


def test_a_pool_has_so_many_of_each_class_and_a_threshold_its_rate(data) -> None:
    digits = load("digits:train")
    found = pool_from(digits, per_class=3, seed=0)
    assert found.counts.tolist() == [3] * 10 and found.source == "digits:train"
    assert pool_from(digits, per_class=3, seed=1).fingerprint != found.fingerprint
    model = load_model(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), shape=(1, 32, 32))
    source = load("digits")
    defence = built("mixup_inference", {"mode": "combined"}, pool=found)
    set_to, threshold = calibrated(defence, model, source, source.ids[:50], 0.1)
    assert set_to.tau == threshold.value and threshold.rate.value <= 0.1 and threshold.rate.n <= len(source) - 50
    with pytest.raises(BadValue, match="MI-Combined"):
        calibrated(replace(defence, pl=None), model, source, source.ids[:50], 0.1)
    with pytest.raises(BadData, match="calibrate"):
        calibrated(defence, model, source, source.ids, 0.1)


def test_a_summary_that_disagrees_with_its_outcomes_is_no_page(data, tmp_path: Path) -> None:
    from holdfast.foundation.errors import BadFile

    holdfast.audit_defence(Sides(), data, JpegCompression(90), threat=Linf(0.1), out=tmp_path / "r", **QUICK)
    file = tmp_path / "r" / FOLDER / SUMMARY
    file.write_text(
        file.read_text().replace('"undefended_clean": {\n    "value": 1.0', '"undefended_clean": {\n    "value": 0.5')
    )
    with pytest.raises(BadFile, match="disagree"):
        render([tmp_path / "r"], tmp_path / "page.html")


def test_the_fixed_seed_is_attacked_with_its_draws_known(data) -> None:
    """A coin that is thrown once cannot be hidden behind: what it turns at the clean image is wrong for good."""
    model = load_model(Sides(), shape=(1, 8, 8))
    subject = Subject(model, from_pair(*data), Flips(), Linf(0.01), Effort(2, 1, (1,), 4, 2))
    info = describe_defended(subject, seed=0, name="sides")
    assert info.randomised and info.defence == __name__.rpartition(".")[2]
    found = holdfast.audit_defence(
        Sides(), data, Flips(2.0), threat=Linf(0.01), steps=2, restarts=1, budgets=(1,), tries=1
    )
    assert found.summary.clean.fixed.value in (0.0, 1.0)  # the same coin for all images
    assert found.summary.adaptive.fixed.value <= found.summary.clean.fixed.value
