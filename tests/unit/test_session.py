"""One session of a run: what it reports, what it counts, and what it does not do twice."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.attacks.apgd import APGD
from holdfast.audit.run import Preflight, describe, run
from holdfast.audit.session import Progress
from holdfast.data.arrays import from_pair
from holdfast.models.load import load as load_model
from holdfast.records import store

WEIGHT = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLAN = holdfast.Plan(
    "two",
    "A sweep, then three targets.",
    (
        holdfast.Stage("pgd", holdfast.attacks.PGD(steps=2)),
        holdfast.Stage("t", APGD(steps=5, loss="targeted_dlr", targets=3)),
    ),
)
THREAT = holdfast.Linf(0.03)


class Net(torch.nn.Module):
    """A float64 net that counts the images it is shown, and fails when it has seen too many."""

    seen = 0
    enough: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(WEIGHT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Net.seen += len(x)
        if Net.enough is not None and Net.seen > Net.enough:
            raise KeyboardInterrupt
        return torch.stack([image.flatten() @ self.weight for image in x])


@pytest.fixture
def source():
    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = (images.flatten(1) @ WEIGHT).argmax(1)
    labels[4] = (labels[4] + 1) % 6
    return from_pair(images, labels)


def audited(source, folder: Path, **more):
    model = load_model(Net(), shape=source.shape)
    info = describe(
        model, source, threat=THREAT, curve=[0.01], plan=PLAN, seed=0, preflight=Preflight((), 0), name="net"
    )
    return run(model, source, info, folder, threat=THREAT, plan=PLAN, **more)


def test_progress(source, tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = audited(source, tmp_path, watch=seen.append)
    order = list(dict.fromkeys((step.stage, step.eps) for step in seen))
    assert order == [("clean", 0.0), ("pgd", 0.01), ("t", 0.01), ("pgd", 0.03), ("t", 0.03)]
    for where, entered in zip(order, [30, *(stage.entered for stage in summary.stages[1:])]):
        steps = [step for step in seen if (step.stage, step.eps) == where]
        assert [step.done for step in steps] == sorted(step.done for step in steps)
        assert steps[-1].done == steps[-1].total == entered
    assert all(step.all == 30 for step in seen) and seen[-1].robust == round(30 * summary.robust_accuracy.value)
    assert all(one.robust >= other.robust for one, other in pairwise(seen))
    assert all(step.eta is not None and step.eta >= 0 for step in seen[2:]) and seen[-1].eta == 0


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_every_evaluation_is_charged_or_discarded(slots: int, source, tmp_path: Path) -> None:
    before = Net.seen
    summary = audited(source, tmp_path / "run", slots=slots)
    shown = Net.seen - before
    overhead = _shown_before_any_work(source)
    assert summary.forwards <= shown <= summary.forwards + summary.discarded + summary.checks + overhead
    assert summary.stages[0].forwards == 30 and summary.forwards == sum(stage.forwards for stage in summary.stages)
    assert summary.backwards == sum(stage.backwards for stage in summary.stages)
    lines = list(store.read_records(tmp_path / "run"))
    assert summary.forwards == sum(line.forwards for line in lines if line.final)
    if slots == 1:
        assert summary.discarded == 0  # one at a time, nothing runs ahead


def _shown_before_any_work(source) -> int:
    before = Net.seen
    load_model(Net(), shape=source.shape)
    return Net.seen - before + 64  # and the images on which the search copy is compared


def test_slots_change_no_verdict_and_no_point(source, tmp_path: Path) -> None:
    found = {}
    for slots in (1, 7, 64):
        audited(source, tmp_path / str(slots), slots=slots)
        lines = store.read_records(tmp_path / str(slots))
        found[slots] = {
            (line.stage, line.eps, line.id): line.model_dump(exclude={"point"}) for line in lines if line.final
        }
    assert found[1] == found[7] == found[64]


def test_what_is_finished_is_not_done_again(source, tmp_path: Path, monkeypatch) -> None:
    whole = audited(source, tmp_path / "whole", slots=4)
    before, sessions = Net.seen, 0
    while True:
        monkeypatch.setattr(Net, "enough", Net.seen + 400)
        try:
            summary = audited(source, tmp_path / "run", slots=4)
            break
        except KeyboardInterrupt:
            sessions += 1
            assert sessions < 60
    assert sessions >= 2
    done = Net.seen - before
    assert done <= whole.forwards + whole.discarded + sessions * (4 * 22 + _shown_before_any_work(source))
    assert summary.robust_accuracy == whole.robust_accuracy and summary.stages == whole.stages
    lines = store.read_records(tmp_path / "run")
    keys = [(line.stage, line.eps, line.id, line.search, line.final) for line in lines]
    assert len(keys) == len(set(keys))


def test_a_model_that_fails_on_a_sample_is_named(source, tmp_path: Path, monkeypatch) -> None:
    class Sick(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            sick = (x[:, 0, 0, 0] == source.images[17, 0, 0, 0])[:, None]
            return torch.where(sick, torch.nan, logits)

    model = load_model(Sick(), shape=source.shape)
    info = describe(model, source, threat=THREAT, curve=[], plan=PLAN, seed=0, preflight=Preflight((), 0), name="net")
    with pytest.raises(holdfast.HoldfastError, match=r"not finite(.|\n)*sample 17"):
        run(model, source, info, tmp_path / "run", threat=THREAT, plan=PLAN, slots=8)
    assert len(list(store.read_records(tmp_path / "run"))) == 16
