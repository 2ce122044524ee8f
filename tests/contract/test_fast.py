"""The plan fast, and the failures of other evaluations that it must not repeat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from attack_contract import case

import holdfast
from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.attacks.apgd import APGD
from holdfast.attacks.fmn import FMN
from holdfast.attacks.square import Square, _corner
from holdfast.audit.outlines import OUTLINES
from holdfast.audit.plan import Plan, Stage, named
from holdfast.audit.verify import verify
from holdfast.data.load import load as load_data
from holdfast.foundation import registry
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models.load import load as load_model
from holdfast.report.read import read
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.25), L1(1.0)], ids=lambda t: t.name)
def test_every_verdict_is_borne_out_by_its_point(threat, tmp_path):
    net, x, y = case("conv", count=40, dtype=torch.float32)
    audit = holdfast.audit(net, (x, y), threat=threat, out=tmp_path / "run")
    broken = audit.correct & ~audit.robust
    assert broken.any() and audit.robust.any()
    assert (net(audit.points).argmax(1) != y)[broken].all()
    assert threat.distance(x, audit.points).max() <= threat.eps + 1e-6
    entered = {stage.stage: stage.entered for stage in audit.summary.stages}
    assert entered["sweep"] >= entered["targets"] >= entered["soft"] >= entered["soft-1"]
    assert 0 < entered["square-check"] <= 12
    spent = audit.forwards + audit.backwards
    longer = 3 if threat.name == "l1" else 1
    escalated = 5000 * entered["square-near"]  # on 20 pixels Square may well take off as much as gradients do
    assert spent <= longer * (500 * int(audit.robust.sum()) + 30 * len(x)) + escalated


@pytest.mark.parametrize("classes", [2, 3, 5, 8, 100])
@pytest.mark.parametrize("plan", ["fast", "standard"])
def test_any_number_of_classes(plan, classes):
    """AutoAttack's own code fails with fewer than ten classes as soon as one sample stands."""
    net, x, y = case("mlp", classes=classes, count=6, dtype=torch.float32)
    chosen = named(plan, Linf(0.01))
    if plan == "standard":  # shorter: what is tested are the targets
        chosen = dataclasses.replace(chosen, stages=tuple(_short(stage) for stage in chosen.stages))
    audit = holdfast.audit(net, (x, y), threat=Linf(0.01), plan=chosen)
    assert audit.robust.any() and not audit.robust[~audit.correct].any()


def _short(stage: Stage) -> Stage:
    return dataclasses.replace(stage, attack=dataclasses.replace(stage.attack, steps=6))  # type: ignore[type-var]


def test_as_strong_as_standard_on_a_small_net():
    net, x, y = case("conv", count=30, dtype=torch.float32)
    for threat in (Linf(0.05), L2(0.25)):
        standard = named("standard", threat)
        stages = tuple(
            dataclasses.replace(stage, attack=dataclasses.replace(stage.attack, steps=600))  # type: ignore[type-var]
            if isinstance(stage.attack, Square)
            else stage
            for stage in standard.stages
        )
        slow = holdfast.audit(net, (x, y), threat=threat, plan=dataclasses.replace(standard, stages=stages))
        fast = holdfast.audit(net, (x, y), threat=threat)
        assert int(fast.robust.sum()) <= int(slow.robust.sum())
        assert (fast.forwards + fast.backwards) * 4 < slow.forwards + slow.backwards


def test_an_audit_of_fast_by_standard_bounds_what_it_missed():
    net, x, y = case("conv", count=16, dtype=torch.float32)
    audit = holdfast.audit(net, (x, y), threat=Linf(0.01), audited=3)
    checked = audit.summary.audited
    assert checked is not None and (checked.count, checked.broken) == (3, 0)
    assert 0 <= checked.low < audit.robust_accuracy
    stages = {stage.stage: stage.entered for stage in audit.summary.stages}
    assert stages["audit-apgd-ce"] == stages["audit-square"] == 3 and stages["square"] == 0


def test_every_plan_can_be_made_for_every_set_that_it_names():
    for name, outline in OUTLINES.items():
        for threat in outline.threats:
            made = named(name, registry.load("threat", threat)(1))
            names = [stage.name for stage in made.stages]
            assert len(set(names)) == len(names) and made.draws == outline.draws
            assert len({info.name for info in (stage.info() for stage in made.stages)}) == len(names)
        for threat in set(registry.names("threat")) - set(outline.threats):
            with pytest.raises(BadValue, match="is not made for") as caught:
                named(name, registry.load("threat", threat)(1))
            assert threat in caught.value.hint


def test_an_attack_that_fails_ends_the_audit():
    """It must not count as a model that withstood."""

    @dataclass(frozen=True)
    class Failing(Attack):
        threats = ("linf",)

        @property
        def objective(self):
            return lambda logits, y, target: logits[:, 0]

        def steps_on(self, threat):
            return 1

        def begin(self, model, rows):
            raise BadModel("cannot search", hint="nothing")

        def step(self, model, state):
            return state

    net, x, y = case("mlp", count=6, dtype=torch.float32)
    with pytest.raises(BadModel, match="cannot search"):
        holdfast.audit(net, (x, y), threat=Linf(0.1), plan=Plan("failing", "fails", (Stage("failing", Failing()),)))


def test_squares_reach_every_pixel():
    """In AutoAttack's code small squares never reach the last row and column."""
    x = torch.zeros(4000, 1, 5, 7)
    side = torch.ones(4000, dtype=torch.int64)
    draws = keys.uniform(keys.fold(keys.root(0), torch.arange(4000)), (2,), dtype=torch.float64)
    top, left = _corner(draws, side, x)
    assert sorted(set(top.tolist())) == list(range(5)) and sorted(set(left.tolist())) == list(range(7))


def test_square_gives_up_only_when_its_gains_cannot_suffice():
    net, x, y = case("conv", count=30, dtype=torch.float32)
    threat = Linf(0.05)
    whole = Square(steps=400)(net, x, y, threat=threat)
    patient = Square(steps=400, patience=1.5)(net, x, y, threat=threat)
    assert int(patient.forwards.sum()) < int(whole.forwards.sum())
    assert not (patient.fooled & ~whole.fooled).any()  # the same draws: it can only stop sooner
    assert int((whole.fooled & ~patient.fooled).sum()) <= 2
    with pytest.raises(BadValue, match="patience"):
        Square(patience=0)


def test_a_minimal_attack_answers_for_all_radii_at_once(tmp_path):
    net, x, y = case("conv", count=30, dtype=torch.float32)
    plan = named("distance", L2(0.6))
    audit = holdfast.audit(net, (x, y), threat=L2(0.6), curve=[0.1, 0.2, 0.3, 0.45], plan=plan, out=tmp_path / "run")
    summary = audit.summary
    ran = {(stage.stage, stage.eps) for stage in summary.stages if stage.entered and stage.stage != "clean"}
    assert {eps for _, eps in ran} == {0.6}
    distance = L2(1).distance(x, audit.points)
    for point in summary.curve:
        stands = audit.correct & ((distance > point.eps) | audit.robust)
        assert round(point.robust_accuracy.value * len(x)) == int(stands.sum())
    values = [point.robust_accuracy.value for point in summary.curve]
    assert len(set(values)) >= 3 and values == sorted(values, reverse=True)
    source = load_data((x, y))
    checked = verify(tmp_path / "run", load_model(net, shape=source.shape), source)
    assert checked.good and checked.points == int((audit.correct & ~audit.robust).sum())
    assert {stage.entered for stage in summary.stages if stage.eps == 0.6} == {int(audit.correct.sum())}
    run = read(tmp_path / "run")
    assert sum(outcome.held for outcome in run.outcomes) == int(audit.robust.sum())
    assert summary.distances is not None and summary.distances.found == checked.points
    again = holdfast.audit(net, (x, y), threat=L2(0.6), curve=[0.1, 0.2, 0.3, 0.45], plan=plan, out=tmp_path / "run")
    assert again.summary == summary


def test_budget_stages_at_smaller_radii_still_run_after_a_minimal_one():
    """A sample that is only broken further out must not count as broken, nor be left alone, nearer."""
    net, x, y = case("conv", count=30, dtype=torch.float32)
    stages = (Stage("near", FMN(steps=5)), Stage("apgd", APGD(steps=20)))
    audit = holdfast.audit(net, (x, y), threat=L2(0.5), curve=[0.2], plan=Plan("both", "both", stages))
    alone = holdfast.audit(net, (x, y), threat=L2(0.2), plan=Plan("one", "one", (Stage("apgd", APGD(steps=20)),)))
    assert audit.summary.curve[0].robust_accuracy.value <= alone.robust_accuracy
    entered = {(stage.stage, stage.eps): stage.entered for stage in audit.summary.stages}
    assert entered["apgd", 0.2] >= round(30 * alone.robust_accuracy)
