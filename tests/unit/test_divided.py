"""A part of a run by several processes is that by one: line for line, however many, and whoever dies on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks_fixture import Thread, at_once
from torch import Tensor, nn

from holdfast.audit.corrupted import api, run
from holdfast.audit.corrupted.question import asked as conditions_asked
from holdfast.audit.defended import api as guard
from holdfast.audit.defended import bench
from holdfast.audit.defended import run as behind
from holdfast.audit.defended.effort import Effort
from holdfast.audit.divided import PIECE, TAIL, pieces
from holdfast.audit.perturbed import run as along
from holdfast.audit.perturbed.question import Divisor
from holdfast.audit.perturbed.question import asked as sequences_asked
from holdfast.audit.ranks import Alone
from holdfast.data.arrays import from_pair
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.foundation.errors import Incomplete, PlanMismatch, StorageError
from holdfast.models.load import load
from holdfast.records.part import OUTCOMES, SHARDS
from holdfast.threats.linf import Linf

N = 41
Evaluate = Callable[..., object]


class Levels(nn.Module):
    """Four classes by the mean of the image; what a corruption does to the brightness decides."""

    def __init__(self, last: float = 0.8) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([0.2, 0.4, 0.6, last]))

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.flatten(1).mean(1, keepdim=True) - self.centres) ** 2


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    images = (0.2 + 0.2 * draw.integers(0, 4, N)[:, None, None, None] + draw.normal(0, 0.1, (N, 1, 32, 32))).clip(0, 1)
    return np.rint(255 * images).astype(np.uint8), draw.integers(0, 4, N)


def corruptions(data, folder: Path, *, ranks=None, watch=None, model: nn.Module | None = None, adapt=None):
    """The audit over a few conditions, 16 images a chunk."""
    source, loaded = from_pair(*data), load(model or Levels(), shape=(1, 32, 32))
    asked = conditions_asked(source, corruptions=("gaussian_noise", "brightness", "contrast"), severities=(1, 3, 5))
    info = run.describe_conditions(loaded, source, asked, name="levels", adaptation="own" if adapt else "")
    return api.evaluate_conditions(loaded, source, info, asked, folder, None, adapt=adapt, watch=watch, ranks=ranks)


def adapted(data, folder: Path, **more):
    """The same of a classifier that remembers what it was shown, so that its conditions are whole or nothing."""

    def adapt(model) -> Callable[[Tensor], Tensor]:
        seen: list[Tensor] = []

        def classify(x: Tensor) -> Tensor:
            seen.append(x.mean())
            return model(x + 0.01 * len(seen) * torch.stack(seen).mean())

        return classify

    return corruptions(data, folder, adapt=adapt, **more)


def perturbations(data, folder: Path, *, ranks=None, watch=None, model: nn.Module | None = None):
    source, loaded = from_pair(*data), load(model or Levels(), shape=(1, 32, 32))
    asked = sequences_asked(source, perturbations=("brightness", "translate", "gaussian_noise"))
    info = along.describe_sequences(loaded, source, asked, name="levels")
    return along.evaluate_sequences(loaded, source, info, asked, folder, Divisor(), watch=watch, ranks=ranks)


def defence(data, folder: Path, *, ranks=None, watch=None, model: nn.Module | None = None):
    """The audit of a defence that draws, 4 images a chunk."""
    images, labels = data
    source, loaded = from_pair(images[:11, :, ::8, ::8], labels[:11]), load(model or Levels(), shape=(1, 4, 4))
    effort = Effort(steps=1, restarts=1, budgets=(1, 2), evaluations=2, tries=2, held_out=2)
    subject = bench.Subject(loaded, source, GaussianNoise(0.1, num_draws=1), Linf(0.02), effort)
    info = guard.describe_defended(subject, seed=0, name="levels").model_copy(update={"chunk": 4})
    return guard.evaluate_defended(subject, info, folder, watch=watch, ranks=ranks)


PARTS = [
    pytest.param(corruptions, "corruptions", id="corruptions"),
    pytest.param(adapted, "corruptions", id="adapted"),
    pytest.param(perturbations, "perturbations", id="perturbations"),
    pytest.param(defence, "defended", id="defence"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(run, "PIXELS", 1)
    monkeypatch.setattr(along, "_PIXELS", 31 * 32 * 32 * 9)
    monkeypatch.setattr(behind, "QUERIES", 5)
    monkeypatch.setattr(bench, "ENOUGH", 2)
    # Tracing a net patches torch for all threads.
    monkeypatch.setattr(bench, "search_copy", lambda module, sample: SimpleNamespace(module=module))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def same(folder: Path, whole: Path, part: str) -> None:
    """Every line once, the same as those of one process, the same points, and no other file."""
    mine, its = ((each / part / OUTCOMES).read_bytes().splitlines() for each in (folder, whole))
    assert sorted(mine) == sorted(its) and len(set(mine)) == len(mine)
    assert files(folder) == files(whole)
    for path in (whole / part).glob("points/*"):
        assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("evaluate", "part"), PARTS)
def test_by_one_two_and_three(evaluate: Evaluate, part: str, data, tmp_path: Path) -> None:
    whole = evaluate(data, tmp_path / "whole")
    for world in (1, 2, 3):
        folder, steps = tmp_path / str(world), []

        def work(ranks: Thread, folder: Path = folder, steps: list = steps) -> object:
            return evaluate(data, folder, ranks=ranks, watch=None if ranks.rank else steps.append)

        found = at_once(world, work)
        assert all(each == found[0] for each in found)
        assert found[0].model_dump(exclude={"seconds"}) == whole.model_dump(exclude={"seconds"})
        same(folder, tmp_path / "whole", part)
        done = [step.done for step in steps]
        assert done == sorted(set(done)) and done[-1] == steps[-1].total and steps[-1].eta == 0
        assert at_once(world, work) == found  # a finished run is only read


@pytest.mark.parametrize(("evaluate", "part"), PARTS)
@pytest.mark.parametrize("victim", [0, 1])
def test_one_dies_and_others_go_on(evaluate: Evaluate, part: str, victim: int, data, tmp_path: Path) -> None:
    """What it wrote is kept, and what the other one wrote; one process goes on, or three."""
    evaluate(data, tmp_path / "whole")

    def dying(folder: Path) -> Callable[[Thread], object]:
        dead = threading.Event()

        def work(ranks: Thread) -> object:
            def watch(step) -> None:
                if ranks.rank == victim:
                    dead.set()
                    raise KeyError("it dies")
                assert dead.wait(60)  # or it might do all the work alone

            return evaluate(data, folder, ranks=ranks, watch=watch)

        return work

    for world in (1, 3):
        folder = tmp_path / f"then {world}"
        died = at_once(2, dying(folder))
        assert isinstance(died[victim], KeyError) and isinstance(died[1 - victim], Incomplete), died
        shards = [*(folder / part).glob(SHARDS)]
        assert shards
        kept = {line for path in (folder / part / OUTCOMES, *shards) for line in path.read_bytes().splitlines()}
        with shards[0].open("ab") as torn:
            torn.write(b'{"corruption": "bri')
        made = []
        found = at_once(world, lambda ranks: evaluate(data, folder, ranks=ranks, watch=made.append))  # noqa: B023
        assert not [each for each in found if isinstance(each, Exception)], found
        same(folder, tmp_path / "whole", part)
        images = sum(len(line.get("label", line.get("flips"))) for line in map(json.loads, kept))
        left = {*(tmp_path / "whole" / part / OUTCOMES).read_bytes().splitlines()} - kept
        assert images > 0 and bool(made) == bool(left)
        assert all(images < step.done <= step.total for step in made)  # what was kept is not done again


def test_another_model_another_folder(data, tmp_path: Path) -> None:
    found = at_once(2, lambda ranks: corruptions(data, tmp_path / "a", ranks=ranks, model=Levels(0.8 + ranks.rank)))
    assert isinstance(found[0], Incomplete) and isinstance(found[1], PlanMismatch)
    assert "process 1 would do another run than process 0: its model is" in str(found[1])
    found = at_once(2, lambda ranks: corruptions(data, tmp_path / f"b{ranks.rank}", ranks=ranks))
    assert isinstance(found[1], StorageError) and "do not see the same files" in str(found[1])
    for rank in (0, 1):  # each has a folder of an earlier run, and not the other's
        corruptions(data, tmp_path / f"c{rank}")
        (tmp_path / f"c{rank}" / "corruptions" / "summary.json").unlink()
        (tmp_path / f"c{rank}" / "corruptions" / OUTCOMES).write_bytes(b"")
    found = at_once(2, lambda ranks: corruptions(data, tmp_path / f"c{ranks.rank}", ranks=ranks))
    assert isinstance(found[0], StorageError) and "do not see the same files" in str(found[0])


def test_a_folder_in_use(data, tmp_path: Path) -> None:
    """Of a process beside the first, too."""
    tried = threading.Event()

    def work(ranks: Thread) -> None:
        def watch(step) -> None:
            if not ranks.rank:
                assert tried.wait(60)
                return
            with pytest.raises(StorageError, match="another process is writing"):
                corruptions(data, tmp_path)
            tried.set()
            raise KeyError

        corruptions(data, tmp_path, ranks=ranks, watch=watch)

    assert isinstance(at_once(2, work)[1], KeyError)


class Crowd(Alone):
    def __init__(self, world: int) -> None:
        self.world = world


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("chunks", [0, 1, 7, 30])
def test_every_item_is_in_one_piece(world: int, chunks: int) -> None:
    todo = [[(chunk, item) for item in range((7 * chunk) % 20)] for chunk in range(chunks)]
    found = pieces(todo, Crowd(world))
    assert [each for piece in found for each in piece] == [each for chunk in todo for each in chunk]
    assert all(piece and len({chunk for chunk, _ in piece}) == 1 for piece in found)
    last = [chunk for chunk in todo if chunk][-TAIL * world :]
    assert all(len(piece) <= PIECE for piece in found if last and piece[0] >= last[0][0])
