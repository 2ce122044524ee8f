"""One session of a run: what it reports, what it counts, and what it does not do twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.attacks.apgd import APGD
from holdfast.audit.description import describe
from holdfast.audit.preflight import Preflight, examined
from holdfast.audit.run import run
from holdfast.audit.session import Progress
from holdfast.audit.verify import verify
from holdfast.data.arrays import from_pair
from holdfast.models.load import load as load_model
from holdfast.records import store
from holdfast.records.schema import Summary
from holdfast.report.read import read as read_run

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
    assert all(step.eta is not None and 0 <= step.eta.least <= step.eta.most for step in seen[2:])
    assert seen[-1].eta == (0, 0)


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


class Sick(Net):
    """Fails as ``how`` says on every image within ``near`` of one of the ``places`` of the source, until it is ``well``."""

    well = False

    def __init__(self, source, places: list[int], how: str, near: float) -> None:
        super().__init__()
        self.where = torch.as_tensor(source.images[places])
        self.how, self.near = how, near

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = (x[:, None] - self.where[None]).abs().flatten(2).amax(2) > self.near
        sick = ~far.all(1)
        if Sick.well or not bool(sick.any()):
            return super().forward(x)
        if self.how == "raise":
            raise ValueError("not this one\nat all")
        return torch.where(sick[:, None], torch.nan, super().forward(x))


class Moat(Sick):
    """The same, but not on these images themselves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on_it = (x[:, None] - self.where[None]).abs().flatten(2).amax(2).amin(1) == 0
        if bool(on_it.all()):
            return Net.forward(self, x)
        return torch.where(on_it[:, None], Net.forward(self, x), super().forward(x))


def records(folder: Path) -> dict[tuple, dict]:
    return {
        (line.stage, line.eps, line.id): line.model_dump(exclude={"point"})
        for line in store.read_records(folder)
        if line.final
    }


@pytest.mark.parametrize("how", ["raise", "NaN"])
@pytest.mark.parametrize("slots", [3, 64])
def test_a_sample_that_fails_is_named_and_left_for_later(how: str, slots: int, source, tmp_path, monkeypatch) -> None:
    whole = audited(source, tmp_path / "whole", slots=slots)
    standing = [line.id for line in store.read_records(tmp_path / "whole") if line.stage == "t" and not line.fooled]
    sick = [0, 17, standing[-1]]

    def go_on() -> Summary:
        model = load_model(Sick(source, sick, how, 0.0), shape=source.shape)
        preflight = examined(model, source, PLAN, THREAT)
        info = describe(model, source, threat=THREAT, curve=[0.01], plan=PLAN, seed=0, preflight=preflight, name="net")
        return run(model, source, info, tmp_path / "run", threat=THREAT, plan=PLAN, slots=slots)

    said = "ValueError: not this one" if how == "raise" else "the model's logits are not finite (NaN or infinite)"
    summary = go_on()
    assert [(each.id, each.stage, each.happened) for each in summary.failed] == [(i, "clean", said) for i in sick]
    done = records(tmp_path / "run")
    assert done == {key: line for key, line in records(tmp_path / "whole").items() if key[2] not in sick}
    right = {i for i in sick if not records(tmp_path / "whole")["clean", 0.0, i]["fooled"]}
    assert round(30 * summary.clean_accuracy.value) == round(30 * whole.clean_accuracy.value) - len(right)
    assert summary.robust_accuracy.n == 30 and summary.robust_accuracy.value <= whole.robust_accuracy.value - 1 / 30
    (told,) = (each for each in summary.warnings if each.check == "samples failed")
    assert f"3 of 30 samples could not be finished: sample 0 (clean: {said}); sample 17 (clean: {said})" in told.saw
    assert (tmp_path / "run" / store.POINTS).exists()

    monkeypatch.setattr(Sick, "well", True)
    before, mended = Net.seen, go_on()
    assert not mended.failed and records(tmp_path / "run") == records(tmp_path / "whole")
    assert (mended.robust_accuracy, mended.curve, mended.stages) == (whole.robust_accuracy, whole.curve, whole.stages)
    assert not (tmp_path / "run" / store.POINTS).exists()
    charged = sum(line["forwards"] for key, line in records(tmp_path / "run").items() if key[2] in sick)
    assert Net.seen - before < charged + mended.discarded + mended.checks + 4 * len(source) + 100


def test_a_sample_near_which_the_model_fails(source, tmp_path, monkeypatch) -> None:
    """Its clean image is fine: it fails in a stage, and stays out of those after it."""
    whole = audited(source, tmp_path / "whole", slots=8)
    lost = [line.id for line in store.read_records(tmp_path / "whole") if line.stage == "t" and line.eps == 0.01][:2]

    model = load_model(Moat(source, lost, "NaN", 0.03), shape=source.shape)
    info = describe(
        model, source, threat=THREAT, curve=[0.01], plan=PLAN, seed=0, preflight=Preflight((), 0), name="net"
    )
    summary = run(model, source, info, tmp_path / "run", threat=THREAT, plan=PLAN, slots=8)
    assert [(each.id, each.stage, each.eps) for each in summary.failed] == [(i, "pgd", 0.01) for i in sorted(lost)]
    assert summary.clean_accuracy == whole.clean_accuracy
    assert {key for key in records(tmp_path / "run") if key[2] in lost} == {("clean", 0.0, i) for i in lost}
    assert all(records(tmp_path / "whole")[key] == line for key, line in records(tmp_path / "run").items())
    read = read_run(tmp_path / "run")  # what the page says agrees with the summary
    assert [outcome.stage for outcome in read.outcomes if outcome.id in lost] == ["failed"] * 2
    assert verify(tmp_path / "run", model, source).good
    monkeypatch.setattr(Sick, "well", True)
    assert run(model, source, info, tmp_path / "run", threat=THREAT, plan=PLAN, slots=8).curve == whole.curve
    assert records(tmp_path / "run") == records(tmp_path / "whole")


class Drawing(Net):
    """The same behind noise, drawn anew at every evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.05 * torch.randn_like(x))


def test_points_are_replayed_with_the_draws_of_the_run(source, tmp_path) -> None:
    plan, model = replace(PLAN, draws=2), load_model(Drawing(), shape=source.shape)
    info = describe(
        model, source, threat=THREAT, curve=[], plan=plan, seed=0, preflight=Preflight((), 0), name="drawing"
    )
    run(model, source, info, tmp_path / "run", threat=THREAT, plan=plan, slots=8)
    state = torch.get_rng_state()
    found = verify(tmp_path / "run", model, source)
    assert found.refuted and torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert verify(tmp_path / "run", model, source) == found


def test_a_model_that_fails_on_more_than_a_few_samples_is_refused(source, tmp_path) -> None:
    for how in ("raise", "NaN"):
        model = load_model(Sick(source, list(range(3, 14)), how, 0.0), shape=source.shape)
        info = describe(
            model, source, threat=THREAT, curve=[], plan=PLAN, seed=0, preflight=Preflight((), 0), name="net"
        )
        with pytest.raises(holdfast.HoldfastError, match=r"11 of 30 samples fail: sample 3 \(clean: ") as caught:
            run(model, source, info, tmp_path / how, threat=THREAT, plan=PLAN, slots=8)
        assert "mend the model" in caught.value.hint and not (tmp_path / how / store.SUMMARY).exists()
        with pytest.raises(holdfast.HoldfastError, match="11 of 30 images"):
            examined(model, source, PLAN, THREAT)
    model = load_model(Moat(source, list(range(30)), "raise", 0.03), shape=source.shape)
    with pytest.raises(holdfast.HoldfastError, match="near more than 10 of 30 images: ValueError: not this one"):
        examined(model, source, PLAN, THREAT)
    few = from_pair(torch.as_tensor(source.images[:3]), torch.as_tensor(source.labels[:3]))
    model = load_model(Sick(source, [0, 1, 2], "NaN", 0.0), shape=source.shape)
    info = describe(model, few, threat=THREAT, curve=[], plan=PLAN, seed=0, preflight=Preflight((), 0), name="net")
    with pytest.raises(holdfast.HoldfastError, match="3 of 3 samples fail"):
        run(model, few, info, tmp_path / "all", threat=THREAT, plan=PLAN)


def test_without_memory_the_run_goes_on_with_fewer_slots(source, tmp_path) -> None:
    class Small(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    audited(source, tmp_path / "whole", slots=3)
    model = load_model(Small(), shape=source.shape)
    preflight = examined(model, source, PLAN, THREAT)
    assert preflight.findings == examined(load_model(Net(), shape=source.shape), source, PLAN, THREAT).findings
    info = describe(model, source, threat=THREAT, curve=[0.01], plan=PLAN, seed=0, preflight=preflight, name="net")
    summary = run(model, source, info, tmp_path / "run", threat=THREAT, plan=PLAN, slots=16)
    assert records(tmp_path / "run") == records(tmp_path / "whole") and not summary.failed
    (note,) = (each for each in summary.notes if each.check == "memory")
    assert "memory does not suffice for 16 searches at once; the run went on with 4" in note.saw
