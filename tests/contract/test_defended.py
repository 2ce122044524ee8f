"""The contract of attacks on defences, for every registered one: to know of a defence is never to be weaker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.audit.defended import run
from holdfast.audit.defended.views import CORE
from holdfast.defences.average import Average
from holdfast.defences.defence import Defence
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue
from holdfast.imaging.pool import Pool
from holdfast.threats.linf import Linf

NAMES = registry.names("defence")
N, EPS = 12, 0.06


def bright(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose brightest third says their class, on noise."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=draw)
    x = 0.4 + 0.2 * torch.rand(count, 3, 12, 12, generator=draw)
    x[torch.arange(count)[:, None], :, :, 4 * y[:, None] + torch.arange(4)] += 0.12
    return x, y


class Thirds(nn.Module):
    """Three classes by the brightest third, with a ripple that makes the loss curved; it has a batch norm to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.5)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        parts = seen.unflatten(3, (3, 4)).mean((1, 2, 4))
        return 12 * parts + torch.sin(9 * parts.flip(1))


def pool() -> Pool:
    images, labels = bright(30, 5)
    return Pool.of(images, torch.cat([torch.arange(3), labels[3:]]), source="bright")


NEEDED = {
    "mixup_inference": lambda: {"pool": pool()},
    "purifier": lambda: {"purify": lambda x: (x * 8).round() / 8, "backward": ("straight_through",)},
}
FEW = {"num_draws": 4, "steps": 5}
"""So many draws, and steps of the defence's own, are enough here."""


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(run, "QUERIES", 10)
    monkeypatch.setattr(run, "CHECKED", 4)


def defence(name: str) -> Defence:
    kind = registry.load("defence", name)
    needed = NEEDED.get(name, dict)()
    few = {key: value for key, value in FEW.items() if key in kind.__dataclass_fields__ and name != "purifier"}
    if name == "mixup_inference":
        few = {"pl": Average(0.5, 2), "ol": Average(0.5, 2)}
    return kind(**needed, **few)


@pytest.mark.parametrize("name", NAMES)
def test_the_adaptive_attack_is_never_weaker_than_the_oblivious_one(name: str) -> None:
    x, y = bright(N, 0)
    arguments = {"steps": 3, "restarts": 1, "budgets": (1, 3), "evaluations": 10, "tries": 2}
    module, guarded = Thirds().eval(), defence(name)
    if guarded.transductive:
        with pytest.raises(BadValue, match="--adapt"):
            holdfast.audit_defence(module, (x, y), guarded, threat=Linf(EPS), **arguments)
        return
    found = holdfast.audit_defence(module, (x, y), guarded, threat=Linf(EPS), **arguments)
    summary = found.summary
    oblivious, adaptive = (found.right[key].mean(1) for key in ("oblivious", "adaptive"))
    # Points are chosen on other draws than those that score them: a few of the scores may differ by chance.
    slack = 0.05 if summary.randomised else 0.0
    assert adaptive.mean() <= oblivious.mean() + slack
    assert np.all(np.diff([level.accuracy.value for level in summary.curve]) <= slack)
    assert summary.adaptive.mean.value <= summary.clean.mean.value
    assert summary.adaptive.fixed.value <= summary.oblivious.fixed.value
    assert all(each.flat == "" for each in found.info.openings) and CORE not in {e.name for e in found.info.openings}
    assert {each.check: each.holds for each in summary.sanity}["large radius"]
