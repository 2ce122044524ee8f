"""How long a run says that it will take, on a clock that counts evaluations: right within a factor of 1.5 after a tenth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import torch
from attack_contract import case
from torch import Tensor, nn

import holdfast
from holdfast.attacks.fmn import FMN
from holdfast.attacks.square import Square
from holdfast.audit.entry import Escalated, Whole
from holdfast.audit.plan import Plan, Stage, named
from holdfast.audit.session import Progress
from holdfast.threats.linf import Linf

FACTOR = 1.5
THREAT = Linf(0.05)


class Clock:
    """So many evaluations of one image were made."""

    now = 0


class Counted(nn.Module):
    """A net whose evaluations, forwards and gradients alike, move the clock."""

    def __init__(self, net: nn.Module, front: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.net, self.front = net, front

    def forward(self, x: Tensor) -> Tensor:
        Clock.now += len(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: setattr(Clock, "now", Clock.now + len(gradient)))
        return self.net(self.front(x) if self.front else x)


def shorter(stage: Stage, ratio: float) -> Stage:
    """Fewer steps, else the test takes long; the check by Square alarms where it does ``ratio`` of what gradients do."""
    entry = dataclasses.replace(stage.entry, ratio=ratio) if isinstance(stage.entry, Escalated) else stage.entry
    steps = {"square-near": 800, "square-check": 60, "square": 200}.get(stage.name, min(stage.attack.steps, 12))
    patient = {"patience": 2.5} if stage.name == "square-near" else {}  # on 24 pixels hope is lost sooner
    return dataclasses.replace(stage, attack=dataclasses.replace(stage.attack, steps=steps, **patient), entry=entry)


def plan(name: str, ratio: float = 0.75, audited: int = 0) -> Plan:
    whole = named(name, THREAT, audited=audited)
    return dataclasses.replace(whole, stages=tuple(shorter(stage, ratio) for stage in whole.stages))


def watched(
    monkeypatch,
    chosen: Plan,
    *,
    count: int = 24,
    spread: float = 1.0,
    front: Callable[[Tensor], Tensor] | None = None,
    **more,
):
    """What a run said on its way, from a tenth of its work on, how much that was, and what came out."""
    net, x, y = case("conv", count=count, dtype=torch.float32)
    seen: list[Progress] = []
    monkeypatch.setattr("holdfast.audit.session.time", SimpleNamespace(monotonic=lambda: float(Clock.now)))
    threat = THREAT.resized(spread * THREAT.eps)
    audit = holdfast.audit(Counted(net, front), (x, y), threat=threat, plan=chosen, watch=seen.append, **more)
    whole = seen[-1].seconds
    late = [step for step in seen if step.seconds >= 0.1 * whole]
    assert len(late) > 8 and late[-1].eta == (0, 0)
    return late, whole, {(stage.stage, stage.eps): stage.entered for stage in audit.summary.stages}


def near(said: float, whole: float) -> bool:
    return whole / FACTOR <= said <= whole * FACTOR


def test_without_an_alarm(monkeypatch) -> None:
    late, whole, entered = watched(monkeypatch, plan("fast"), slots=64)
    assert entered["square-check", 0.05] and not entered["square-near", 0.05]
    assert all(near(step.seconds + step.eta.least, whole) for step in late)
    open_ = [step for step in late if step.eta.most > step.eta.least]
    assert open_ and whole < min(step.seconds + step.eta.most for step in open_)  # the alarm might have come


def test_with_an_alarm(monkeypatch) -> None:
    """Until the check has run nobody knows; the longer end of the range is the right one, and stays alone."""
    late, whole, entered = watched(monkeypatch, plan("fast", ratio=0.2), slots=64)
    assert entered["square-near", 0.05] > 5
    assert all(near(step.seconds + step.eta.most, whole) for step in late)
    assert {step.eta.least < step.eta.most for step in late if not step.stage.startswith("square")} == {True}
    assert {step.eta.least == step.eta.most for step in late if step.stage == "square-near"} == {True}


def test_an_alarm_that_was_raised_before(monkeypatch) -> None:
    """Where the gradients are known to lie, there is nothing to wait for."""
    rippled = {"front": lambda x: x + 2e-3 * torch.sin(3e4 * x), "spread": 0.6}
    late, whole, entered = watched(monkeypatch, plan("fast"), count=40, slots=64, **rippled)
    assert entered["square-near", THREAT.eps * 0.6] > 20
    assert all(step.eta.least == step.eta.most and near(step.seconds + step.eta.most, whole) for step in late)


def test_standard(monkeypatch) -> None:
    late, whole, _ = watched(monkeypatch, plan("standard"), count=12, slots=64)
    assert all(near(step.seconds + step.eta.most, whole) for step in late)


def test_more_radii(monkeypatch) -> None:
    late, whole, entered = watched(monkeypatch, plan("fast"), count=16, slots=64, curve=[0.04])
    assert not entered["square-near", 0.05]
    assert all(near(step.seconds + step.eta.least, whole) for step in late if step.stage != "sweep")
    assert all(step.seconds + step.eta.most > whole / FACTOR for step in late)


def test_a_plan_that_is_audited(monkeypatch) -> None:
    """One of those that are searched once more falls, so that all are; afterwards nothing is open."""
    late, whole, entered = watched(monkeypatch, plan("sweep", audited=4), count=12, slots=64)
    assert entered["audit-square", THREAT.eps] < entered["square", THREAT.eps]
    assert all(near(step.seconds + step.eta.most, whole) for step in late if step.stage != "pgd")
    assert {step.eta.least == step.eta.most for step in late if step.stage in ("apgd-ce", "apgd-t")} == {True}


def test_a_minimal_attack_is_waited_for_once(monkeypatch) -> None:
    """It answers for all radii in the first one's turn."""
    one = Plan("one", "FMN.", (Stage("fmn", FMN(steps=20), None, Whole()),))
    late, whole, _ = watched(monkeypatch, one, count=12, slots=4, curve=[0.01, 0.02])
    assert all(near(step.seconds + step.eta.most, whole) for step in late)


def test_a_net_that_falls_at_once(monkeypatch) -> None:
    """How many fall is open at first; then it is known from those that were searched."""
    late, whole, _ = watched(monkeypatch, plan("standard"), count=400, slots=8, spread=6)
    half = [step for step in late if step.stage == "apgd-ce" and step.done > step.total / 2]
    assert half and all(near(step.seconds + step.eta.most, whole) for step in half)


def test_square_with_patience_usually_ends_early() -> None:
    assert Square().lasts == 1 and Square(patience=1.5).lasts < 1
