"""Several processes, or several parts, make the same step as one: here processes are threads that meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.foundation.errors import BadValue, PlanMismatch
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.clp import CLP
from holdfast.objectives.cutmix import CutMix
from holdfast.objectives.free import Free
from holdfast.objectives.half_clean import HalfClean
from holdfast.objectives.interpolated import Interpolated
from holdfast.objectives.mixup import Mixup
from holdfast.objectives.standard import Standard
from holdfast.objectives.trades import TRADES
from holdfast.threats.linf import Linf
from holdfast.training import run
from holdfast.training.held_out import Judged, judged
from holdfast.training.loop import Trainer
from holdfast.training.plan import planned
from holdfast.training.recipe import Recipe
from holdfast.training.team import Team, shares
from holdfast.training.watchdog import Watchdog

COUNT, BATCH = 28, 9
"""Batches of 9, 9, 9 and 1 images: not divisible by 2, and the last one not to be divided."""


class Meeting:
    """What threads that play processes share. One works while the others wait: torch.fx traces for all threads at once."""

    def __init__(self, world: int) -> None:
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(world, timeout=60)
        self.slots: list[Any] = [None] * world


class Member(Team):
    """One of several threads; sums are taken in the same order by all."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__()
        self.rank, self.world, self._meeting = rank, len(meeting.slots), meeting

    def _exchanged(self, mine: Any) -> list[Any]:
        self._meeting.slots[self.rank] = mine
        self._wait()
        found = list(self._meeting.slots)
        self._wait()
        return found

    def _wait(self) -> None:
        self._meeting.turn.release()
        try:
            self._meeting.barrier.wait()
        finally:
            self._meeting.turn.acquire()

    def by_first(self, make: Callable[[], Any]) -> Any:
        return self._exchanged(make() if self.rank == 0 else None)[0]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        every = self._exchanged([each.detach().clone() for each in tensors])
        with torch.no_grad():
            for number, each in enumerate(tensors):
                each.copy_(torch.stack([given[number] for given in every]).sum(0))


def together(world: int, make: Callable[[Team], Any], act: Callable[[Any], Any]) -> list[Any]:
    """What each of several threads comes to with what was made for it before (making draws from global generators)."""
    meeting, found, errors = Meeting(world), [None] * world, []
    made = [make(Member(rank, meeting)) for rank in range(world)]

    def perform(rank: int) -> None:
        try:
            with meeting.turn:
                found[rank] = act(made[rank])
        except threading.BrokenBarrierError:
            pass  # another one raises
        except Exception as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=perform, args=(rank,)) for rank in range(world)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for error in errors:
        raise error
    assert not meeting.barrier.broken
    return found


def some():
    source = load("digits:train")
    batch = source.take(source.ids[:COUNT])
    return from_pair(batch.images, batch.labels)


def recipe(objective: Any, **change: Any) -> Recipe:
    settings = {"threat": Linf(0.1), "epochs": 2, "batch_size": BATCH, "warm_up": 0.0, "shift": 1, "flip": True}
    return Recipe(objective, **{**settings, **change})


def net(norm: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if norm:
            layers = nn.Conv2d(1, 3, 3, stride=5), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(108, 10)
            return nn.Sequential(*layers).double()
        return SmallCNN(width=4, hidden=16).double()


def outcome(trainer: Trainer) -> dict[str, Tensor]:
    """All that a training comes to: weights, average, optimiser, what was carried, what is judged, and the losses."""
    losses = torch.stack([trainer.step() for _ in range(trainer.total)])
    kept = {f"judged.{name}": value for name, value in trainer.judged().state_dict().items()}
    return trainer.state() | kept | {"losses": losses}


def alone(how: Recipe, norm: bool = False) -> dict[str, Tensor]:
    return outcome(Trainer(net(norm), some(), how))


def divided(world: int, how: Recipe, norm: bool = False) -> list[dict[str, Tensor]]:
    return together(world, lambda team: Trainer(net(norm), some(), how, team=team), outcome)


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


CASES = {
    "standard": recipe(Standard(smoothing=0.1)),
    "adversarial": recipe(Adversarial(PGD(steps=2)), optimiser="sgd", lr=0.05),
    "trades": recipe(TRADES(PGD(steps=2))),
    "mixup": recipe(Mixup(PGD(steps=2))),
    "cutmix": recipe(CutMix()),
    "free": recipe(Free(), replays=2),
    "perturbed weights": recipe(TRADES(PGD(steps=1)), awp=0.01),
    "aligned": recipe(Adversarial(PGD(steps=1)), align=0.2),
    "averaged": recipe(Standard(), average=0.9),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_steps_however_divided(case: str) -> None:
    how = CASES[case]
    expected = alone(how)
    start = Trainer(net(), some(), how).state()
    moved = [float((expected[name] - start[name]).abs().max()) for name in start if name.startswith("net.")]
    assert min(moved) > 1e-4, "every weight was trained"
    for world, parts in ((1, 3), (2, 2), (3, 1)):
        found = divided(world, recipe(**{**vars(how), "accumulate": parts}))
        assert furthest(found[0], expected) < 1e-10, (world, parts)
        assert all(furthest(found[0], each) == 0 for each in found), "to the same bits in every process"


@pytest.mark.parametrize("averaging", ["exponential", "uniform"])
def test_batch_norms_see_their_own_images_and_tell_one_another(averaging: str) -> None:
    how = recipe(Adversarial(PGD(steps=1)), awp=0.01, average=0.9, averaging=averaging)
    found = divided(2, how, norm=True)
    assert furthest(found[0], found[1]) == 0
    assert furthest(found[0], alone(how, norm=True)) > 1e-6, "each normalises by its own images"
    first = recipe(Standard(), epochs=1, batch_size=COUNT)
    whole, shared = alone(first, norm=True), divided(2, first, norm=True)[0]
    assert torch.allclose(shared["net.1.running_mean"], whole["net.1.running_mean"], rtol=0, atol=1e-12)
    assert not torch.allclose(shared["net.1.running_var"], whole["net.1.running_var"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [CLP(), HalfClean(PGD(steps=1)), Interpolated(PGD(steps=1))])
def test_what_cannot_be_divided_is_refused(objective: Any) -> None:
    for how in (recipe(objective, accumulate=2), recipe(Standard(), accumulate=2, later=((0.5, objective),))):
        with pytest.raises(BadValue, match=type(objective).__name__):
            Trainer(net(), some(), how)
    with pytest.raises(BadValue, match=type(objective).__name__):
        Trainer(net(), some(), recipe(objective), team=Member(0, Meeting(2)))
    Trainer(net(), some(), recipe(objective))


@pytest.mark.parametrize("count", [1, 2, 5, 64])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_shares(count: int, world: int, parts: int) -> None:
    every = [shares(count, rank, world, parts) for rank in range(world)]
    assert len({len(each) for each in every}) == 1 and 1 <= len(every[0]) <= parts
    rows = sorted(row for each in every for _, part in each for row in range(count)[part])
    copies = 1 if count >= 2 * world else world
    assert rows == sorted(list(range(count)) * copies)
    for weight, part in (one for each in every for one in each):
        assert len(range(count)[part]) >= min(2, count) and weight == len(range(count)[part]) / (count * copies)


def shared_by(world: int, x: Tensor, y: Tensor) -> list[Judged]:
    return together(
        world, lambda team: (team, net(norm=True)), lambda made: judged(made[1], x, y, Linf(0.1), 3, team=made[0])
    )


def test_held_out_images_are_shared() -> None:
    module, batch = net(norm=True), some().take(some().ids)
    x, y = torch.from_numpy(batch.images).double() / 255, torch.from_numpy(batch.labels)
    expected = judged(module, x, y, Linf(0.1), 3)
    for world in (2, 3):
        assert shared_by(world, x, y) == [expected] * world
    assert shared_by(3, x[:1], y[:1]) == [judged(module, x[:1], y[:1], Linf(0.1), 3)] * 3  # two of them have none


def test_the_first_process_decides_what_failed() -> None:
    """Another process does what the first one saw, whatever it would have seen itself."""

    def watched(trainer: Trainer) -> tuple[Any, ...]:
        watchdog = Watchdog(trainer, 7.0)
        trainer.step()
        probe = watchdog.look(torch.tensor([1.0 if trainer.team.rank else float("nan")]))
        return probe.repair, probe.back, trainer.done, watchdog.memory, trainer.recipe.lr

    how = recipe(Adversarial(PGD(steps=2)))
    one, other = together(2, lambda team: Trainer(net(), some(), how, team=team), watched)
    assert one == other and one[0] and one[1] == one[2] == 0


class Second(Team):
    """The second of two, where the first one is given another training."""

    def __init__(self, *given: Any) -> None:
        super().__init__()
        self.rank, self.world = 1, 2

    def by_first(self, make: Callable[[], Any]) -> Any:
        return "another"


def test_all_processes_are_given_the_same_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "Team", Second)
    with pytest.raises(PlanMismatch, match="process 1 was given another training than process 0"):
        run.train("small_cnn", some(), recipe(Standard()), tmp_path / "out", options={"width": 4})
    assert not (tmp_path / "out").exists()


def test_parts_take_less_memory() -> None:
    whole, parts = (
        planned(Trainer(net(), some(), recipe(Standard(), batch_size=COUNT, accumulate=number))).bytes
        for number in (1, 4)
    )
    assert parts < whole
