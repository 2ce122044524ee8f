"""`holdfast detect` and `audit_detectors`: what is kept apart, what is counted, what is concluded, and where it resumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.audit.defended.views import Tally
from holdfast.audit.detected import run
from holdfast.audit.detected.api import DetectorAudit, audit_detectors
from holdfast.audit.detected.conclude import concluded, told
from holdfast.audit.detected.images import divided
from holdfast.audit.detected.options import built, suited
from holdfast.audit.detected.views import Real, counted
from holdfast.audit.divided import Progress
from holdfast.data.load import load
from holdfast.data.source import Subset
from holdfast.detectors.energy import Energy
from holdfast.detectors.guard import Guard
from holdfast.detectors.mixup_gap import MixupGap
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadModel, BadValue, PlanMismatch, UnknownName
from holdfast.models.load import load as load_model
from holdfast.nets.small_cnn import SmallCNN
from holdfast.records.defended import PoolInfo
from holdfast.records.detected import DetectedInfo, DetectorInfo, Judgement, Scored
from holdfast.records.schema import DataInfo, ModelInfo, Rate
from holdfast.threats.linf import Linf

SMALL = ("--option", "width=4", "--option", "hidden=32")
DETECTORS = {"energy": Energy(), "mixup_gap": MixupGap(num_draws=2)}


@pytest.fixture(scope="module")
def model(digits_net: Path):
    return load_model("net:small_cnn", weights=digits_net, shape=(1, 32, 32), options={"width": 4, "hidden": 32})


def audited(model, **given) -> DetectorAudit:
    settings: dict[str, Any] = {
        "train": "digits:train",
        "threat": Linf(0.1),
        "per_class": 5,
        "limit": 40,
        "steps": 3,
        "evaluations": 2,
    }
    return audit_detectors(model, "digits", given.pop("detectors", DETECTORS), **settings | given)


@pytest.fixture(scope="module")
def found(model, tmp_path_factory) -> DetectorAudit:
    return audited(model, out=tmp_path_factory.mktemp("detect"))


# What is concluded, by hand.


def info(*names: str, flat: str = "") -> DetectedInfo:
    data = DataInfo(name="d", fingerprint="f", n=4, shape=(1, 2, 2), class_names=("a", "b"))
    return DetectedInfo(
        name="m",
        created="",
        detectors={name: DetectorInfo(detector="energy", settings={}, flat=flat) for name in names},
        fitted=PoolInfo(source="t", images=2, classes=2, fingerprint="p"),
        held=data,
        false_alarms=0.05,
        threat="linf",
        eps=0.1,
        steps=1,
        restarts=1,
        evaluations=1,
        extra=False,
        seed=0,
        chunk=4,
        model=ModelInfo(name="m", fingerprint="", classes=2, shape=(1, 2, 2), parameters=0, dtype="", device=""),
        data=data,
        versions={},
    )


def line(name: str, seen: dict[str, tuple[list[int], list[float]]], first: int = 0) -> Scored:
    judged = {
        what: Judgement(predicted=tuple((each,) for each in said), score=tuple((each,) for each in score))
        for what, (said, score) in seen.items()
    }
    n = len(next(iter(seen.values()))[0])
    return Scored(
        detector=name,
        first=first,
        ids=tuple(range(first, first + n)),
        label=(0,) * n,
        threshold=1.0,
        calibrated=Rate(value=0.05, n=100, low=0.02, high=0.11),
        seen=judged,
        forwards=10,
        gradients=4,
        seconds=1.0,
    )


def test_the_figures_by_hand() -> None:
    # Image 0 stands; 1 is noticed by the first attack alone; 2 is noticed when clean; 3 is wrong from the start.
    a = {
        "clean": ([0, 0, 0, 1], [0.0, 0.1, 1.0, 0.3]),
        "noise": ([0, 0, 0, 1], [0.0, 2.0, 2.0, 2.0]),
        "oblivious": ([0, 1, 1, 1], [0.0, 2.0, 2.0, 0.2]),
        "adaptive": ([0, 1, 1, 1], [0.0, 0.5, 0.05, 0.2]),
    }
    b = {**a, "adaptive": ([1, 0, 1, 1], [9.0, 0.5, 0.5, 0.2])}
    summary = concluded(info("b", "a"), [line("a", a), line("b", b)], spent=(100, 7), costs={"a": 1.0, "b": 2.0})
    assert [row.detector for row in summary.rows] == ["b", "a"] and summary.n == 4
    other, row = summary.rows
    assert summary.undefended_clean.value == 0.75 and summary.undefended_oblivious.value == 0.25
    assert summary.undefended.value == 0.0  # image 0 falls to the point that was made against b
    assert (summary.forwards, summary.gradients, summary.seconds) == (120, 15, 2.0) and (row.cost, other.cost) == (1, 2)
    assert row.false_alarms.value == 0.25 and row.noise.value == 0.75 and row.noise_adds.value == 0.5
    assert row.clean.value == 0.5
    assert row.oblivious.fooled == 3 and row.oblivious.detected is not None and row.oblivious.auc is not None
    assert row.oblivious.detected.value == pytest.approx(2 / 3) and row.oblivious.auc.value == pytest.approx(10 / 12)
    assert row.oblivious.safe.value == 0.75 and row.oblivious.robust.value == 0.5
    assert row.adaptive.safe.value == 0.25 and row.adaptive.robust.value == 0.25
    assert row.gain.value == 0.25 and row.overstated.value == 0.25
    assert "AUC 0.83" in row.sentence and "robust accuracy 25.0 % with it and 0.0 % without: +25.0" in row.sentence
    area = told([line("a", a)])["a"].roc("oblivious")
    assert area is not None and np.trapezoid(area.detected, area.false_alarms) == pytest.approx(10 / 12)


def test_nothing_that_fools_has_no_auc_and_lines_are_put_in_order() -> None:
    same = {what: ([0, 0], [0.0, 2.0]) for what in ("clean", "noise", "oblivious", "adaptive")}
    later = {**same, "clean": ([0, 1], [0.5, 0.6])}
    seen = told([line("a", later, first=2), line("a", same)])["a"]
    assert seen.ids.tolist() == [0, 1, 2, 3] and seen.right["clean"][:, 0].tolist() == [True, True, True, False]
    summary = concluded(info("a"), [line("a", same)], spent=(0, 0), costs={"a": 1.0})
    under = summary.rows[0].oblivious
    assert (
        under.fooled == 0 and under.auc is None and under.detected is None and "undefined" in summary.rows[0].sentence
    )


def test_what_stands_against_the_numbers() -> None:
    n = 40
    right, wrong, low, high = [0] * n, [1] * n, [0.0] * n, [2.0] * n
    seen = {"clean": (right, low), "noise": (right, high), "oblivious": (wrong, high), "adaptive": (wrong, high)}
    strong = concluded(info("a", flat="it rounds"), [line("a", seen)], spent=(0, 0), costs={"a": 1.0})
    said = {each.check: each.level for each in strong.warnings}
    assert said["a: adaptive not below oblivious"] == said["a: no gradient"] == "warning"
    assert (
        said["a: noise"] == said["a: gain"] == "note" and strong.rows[0].verdict == "a gain over the undefended model"
    )
    seen = {"clean": (right, high), "noise": (right, high), "oblivious": (wrong, low), "adaptive": (wrong, low)}
    poor = concluded(info("a"), [line("a", seen)], spent=(0, 0), costs={"a": 1.0})
    said = {each.check: each.level for each in poor.warnings}
    assert said == {"a: false alarms": "warning", "a: inverted": "note"}
    assert poor.rows[0].verdict == "no gain over the undefended model"


# What is kept apart.


def test_the_three_sets_of_images_do_not_meet() -> None:
    whole, train = load("digits"), load("digits:train")
    tested = load("digits", limit=450)
    images = divided(whole, tested, train, false_alarms=0.05, per_class=3, seed=0)
    assert len(images.held) == 50 and not set(images.held.ids) & set(tested.ids) and len(images.fitted.images) == 30
    with pytest.raises(BadData, match="450 images under test lie in the pool"):
        divided(whole, tested, tested, false_alarms=0.05, per_class=500, seed=0)
    few = load("digits", limit=490)
    with pytest.raises(BadValue, match=r"10 images cannot show .* 0.05, and no more are left") as error:
        divided(whole, few, train, false_alarms=0.05, per_class=3, seed=0)
    assert "at least 19 clean images: a smaller --limit" in error.value.hint
    with pytest.raises(BadValue, match="between 0 and 1"):
        divided(whole, tested, train, false_alarms=1.0, per_class=3, seed=0)
    # Held-out images that are under test, or fitted on, in all but their ids are left out.
    images, labels = whole.take(whole.ids[:60])
    twice = load((np.concatenate([images, images[:20]]), np.concatenate([labels, labels[:20]])))
    found = divided(twice, Subset(twice, twice.ids[:20]), train, false_alarms=0.05, per_class=3, seed=0)
    assert sorted(found.held.ids) == list(range(20, 60))


def test_detectors_by_name() -> None:
    every = set(registry.names("detector"))
    assert set(suited(10, 10)) == every - {"extra_class"} and set(suited(11, 10)) == every
    found = built(["energy", "mahalanobis"], {"energy.temperature": 10, "mahalanobis.layer": "head.0"})
    assert found["energy"] == Energy(10.0) and getattr(found["mahalanobis"], "layer") == "head.0"  # noqa: B009
    for names, options, says in (
        (["enrgy"], {}, "energy"),
        (["energy"], {"energy.temp": 1}, "temperature"),
        (["energy"], {"temperature": 1}, "NAME.KEY=VALUE"),
        (["energy"], {"max_softmax.x": 1}, "--detector max_softmax"),
        (["energy"], {"energy.temperature": "hot"}, "temperature=VALUE"),
        ([], {}, "leave --detector out"),
    ):
        with pytest.raises((BadValue, UnknownName)) as error:
            built(names, options)
        assert says in error.value.hint


# What is counted, and against whom.


def test_copies_are_counted_too(model) -> None:
    images, labels = load("digits:train").take(load("digits:train").ids[:60])
    x, y = torch.from_numpy(images) / 255, torch.from_numpy(labels)
    tally = Tally()
    fitted = MixupGap(num_draws=3).fit(counted(model.module, tally), x, y)
    tally.cost[:] = [0, 0]
    with torch.no_grad():
        fitted(x[:5])
    assert tally.cost == [5 * (1 + 3), 0]
    fitted(x[:5].clone().requires_grad_())
    assert tally.cost == [2 * 5 * (1 + 3), 5 * (1 + 3)]


def test_the_classifier_of_a_net_with_an_extra_class_has_one_output_less() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(Real(net)(x), net(x)[:, :2])


# The whole.


def test_both_attacks_on_every_detector(found: DetectorAudit, model) -> None:
    summary = found.summary
    assert [row.detector for row in summary.rows] == ["energy", "mixup_gap"] and summary.n == 40
    energy, mixup = summary.rows
    assert (energy.cost, energy.evaluations, mixup.cost, mixup.evaluations) == (1.0, 1, 3.0, 2)
    # Where nothing is drawn, who knows the detector is never weaker than who ignores it.
    assert energy.adaptive.robust.value <= energy.oblivious.robust.value
    assert summary.undefended.value <= summary.undefended_oblivious.value < summary.undefended_clean.value
    each, other = found.told["energy"], found.told["mixup_gap"]
    assert np.array_equal(each.right["oblivious"][:, 0], other.right["oblivious"][:, 0])  # the same points for all
    assert energy.gradients == 40 * 2 * 3 and mixup.gradients == 3 * energy.gradients
    assert summary.gradients == energy.gradients + mixup.gradients + 40 * 2 * 3
    area = each.roc("oblivious")
    assert area is not None and energy.oblivious.auc is not None
    assert np.trapezoid(area.detected, area.false_alarms) == pytest.approx(energy.oblivious.auc.value)
    # The threshold is that of the images that are held out of the test, by the detector fitted on training images.
    source = load("digits", limit=40)
    images = divided(load("digits"), source, load("digits:train"), false_alarms=0.05, per_class=5, seed=0)
    held = torch.from_numpy(images.held.take(images.held.ids).images) / 255
    fitted = Energy().fit(model.module, images.fitted.take(torch.arange(50), torch.float32), images.fitted.labels)
    assert energy.threshold == pytest.approx(Guard.calibrated(fitted, held).threshold.value, rel=1e-6)
    assert summary.info.held.n == len(held) == 460


def test_all_that_suit_a_net_with_an_extra_class() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCNN(width=2, hidden=8, classes=11)
    found = audited(net, detectors=None, limit=8, steps=1, evaluations=1)
    assert found.summary.info.extra and [*found.told] == registry.names("detector")
    # One classifier for all of them, that of the first 10 outputs: also for those that do not know of the 11th.
    images, _ = load("digits", limit=8).take(load("digits", limit=8).ids)
    with torch.no_grad():
        real = net(torch.from_numpy(images) / 255)[:, :10].argmax(1).numpy()
    assert all(np.array_equal(each.right["clean"][:, 0], real == each.label) for each in found.told.values())


def test_a_stopped_run_goes_on_where_it_was(found: DetectorAudit, model, tmp_path: Path, monkeypatch) -> None:
    seen: list[Progress] = []

    def stop(step: Progress) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audited(model, out=tmp_path, watch=stop)
    kept = (tmp_path / "detected" / "outcomes.jsonl").read_text().splitlines()
    assert [step.done for step in seen] == [32, 40, 72] and len(kept) == 3 and not (tmp_path / "detect.json").exists()
    searched: list[int] = []
    plain = run.evade
    monkeypatch.setattr(run, "evade", lambda *given, **more: searched.append(0) or plain(*given, **more))
    again = audited(model, out=tmp_path)
    assert len(searched) == 1  # the last 8 images, for the detector that was being shown them
    assert again.summary.rows == found.summary.rows and again.summary.gradients == found.summary.gradients
    monkeypatch.setattr(run, "evade", None)
    assert audited(model, out=tmp_path).summary == again.summary  # a finished one is only read
    with pytest.raises(PlanMismatch, match="steps"):
        audited(model, out=tmp_path, steps=4)


def test_what_is_refused(model) -> None:
    for given, error, says in (
        ({"threat": Linf(0.1), "steps": 0}, BadValue, "steps is 0"),
        ({"detectors": {}}, BadValue, "no detector"),
        ({"detectors": built(["extra_class"], {})}, BadModel, "none is an extra class"),
    ):
        with pytest.raises(error, match=says):
            audited(model, **given)

    with pytest.raises(BadModel, match="no module"):
        audited(lambda x: model.module(x))


def test_the_command(digits_net: Path, tmp_path: Path, monkeypatch, cli) -> None:
    monkeypatch.chdir(tmp_path)
    net = ("--model", "net:small_cnn", "--weights", str(digits_net), *SMALL)
    quick = ("--eps", 0.1, "--limit", 16, "--steps", 2, "--train-per-class", 4, "--detector", "energy", "max_softmax")
    ran = cli("detect", *net, *quick, "--detector-option", "energy.temperature=2")
    assert ran.code == 0, ran.err
    assert "2 detectors, 16 images under test, 484 held out, 40 fitted on" in ran.err and "detectors: 32/32" in ran.err
    for part in ("AUC, adaptive", "flags noise", "gain over none", "energy: AUC", "Empirical: upper bounds"):
        assert part in ran.out
    folder = next(Path("runs").iterdir())
    assert folder.name == "digits-digits-linf-0.1-detect"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert {row["detector"] for row in rows} == {"none", "energy", "max_softmax"}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    curve = list(csv.DictReader((folder / "roc.csv").read_text().splitlines()))
    mine = [row for row in curve if (row["detector"], row["attack"]) == ("energy", "oblivious")]
    x, y = ([float(row[key]) for row in mine] for key in ("false_alarms", "detected"))
    (auc,) = (row for row in rows if (row["detector"], row["quantity"]) == ("energy", "oblivious auc"))
    assert np.trapezoid(y, x) == pytest.approx(float(auc["value"]))
    drawn = (folder / "figure.svg").read_text()
    assert "The attack knows the detector" in drawn and f"energy: AUC {float(auc['value']):.2f}" in drawn
    assert (folder / "figure.png").stat().st_size > 10_000
    assert f"energy: AUC {float(auc['value']):.2f}" in (folder / "report.html").read_text(encoding="utf-8")
    again = cli("detect", *net, *quick, "--detector-option", "energy.temperature=2", "--json", "-q")
    document = json.loads(again.out)
    assert not again.err and document == json.loads((folder / "detect.json").read_text())
    assert document["info"]["detectors"]["energy"]["settings"] == {"temperature": 2.0} and document["n"] == 16
    for given, says in (
        (("--threat", "spatial"), "cannot search the threat"),
        (("--false-alarms", 0.001), "999"),
        (("--train", "digits:test"), "training split"),
        (("--data", "digits:test"), "--train"),
    ):
        ran = cli("detect", *net, *quick, *given, "--out", "none", "-q")
        assert ran.code == 2 and says in ran.err and not Path("none").exists(), ran.err
