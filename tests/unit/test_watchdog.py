"""The watchdog: each failure is seen, said, and mended or not as was asked; and its memory survives a kill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training import recipes, run, saved, watchdog
from holdfast.training.folder import ROBUST
from holdfast.training.loop import Trainer
from holdfast.training.plan import passes
from holdfast.training.recipe import Recipe
from holdfast.training.repair import repaired
from holdfast.training.run import Training, train
from holdfast.training.watchdog import Watchdog

SMALL = {"width": 4, "hidden": 16}


def some(n: int = 120) -> Source:
    source = load("digits:train")
    batch = source.take(source.ids[:n])
    return from_pair(batch.images, batch.labels)


def recipe(**change: Any) -> Recipe:
    settings = {"objective": Adversarial(PGD(steps=2)), "threat": Linf(0.1), "epochs": 3, "batch_size": 32, "lr": 5e-3}
    return Recipe(**{**settings, **change})


def failures(found: Training) -> list[str]:
    return [each.check for probe in found.probes for each in probe.findings]


def collapsing(watch: str) -> Recipe:
    """Single steps on digits at a radius at which they are no use: FGSM accuracy rises while PGD accuracy falls to 0."""
    settings = {"epochs": 12, "batch_size": 32, "lr": 5e-3, "warm_up": 0.1, "watch": watch}
    return recipes.recipe("specimen_catastrophic_overfitting", Linf(0.25), settings)


NET = {"width": 8, "hidden": 32}


def test_single_steps_that_overfit_are_seen_said_and_mended(tmp_path: Path) -> None:
    found = {
        watch: train("small_cnn", some(600), collapsing(watch), tmp_path / watch, options=NET)
        for watch in ("warn", "repair", "stop")
    }
    warned, mended, stopped = found["warn"], found["repair"], found["stop"]
    assert set(failures(warned)) == {"catastrophic overfitting"} and not warned.stopped
    first = next(probe for probe in warned.probes if probe.findings)
    assert first.single - first.robust > 0.2 and first.images == 256
    assert any(each.check == "catastrophic overfitting" for record in warned.epochs for each in record.findings)
    # Seen within 200 steps of the last look at which it was not there.
    assert max([probe.step for probe in warned.probes if probe.step < first.step]) >= first.step - 200
    repaired = next(probe for probe in mended.probes if probe.repair)
    assert repaired.repair == "the inner attack is pgd of 2 steps" and 0 < repaired.back < repaired.step == first.step
    assert [record.epoch for record in mended.epochs] == list(range(1, 13)) and not mended.stopped
    assert mended.epochs[-1].robust > warned.epochs[-1].robust + 0.15
    assert stopped.stopped.startswith(f"catastrophic overfitting at step {first.step}")
    assert [each.loss for each in stopped.epochs] == [each.loss for each in warned.epochs[: len(stopped.epochs)]]
    assert (tmp_path / "stop" / ROBUST).exists()
    assert train("small_cnn", some(600), collapsing("stop"), tmp_path / "stop", options=NET) == stopped


AVERAGED = dataclasses.replace(collapsing("repair"), average=0.9)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, Training]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train("small_cnn", some(600), AVERAGED, folder, options=NET)


@pytest.mark.parametrize("stop", [60, 70, pytest.param(140, marks=pytest.mark.slow)])
def test_a_killed_training_is_mended_to_the_same_bits(
    stop: int, unbroken: tuple[Path, Training], tmp_path: Path, monkeypatch
) -> None:
    (folder, whole), source, step = unbroken, some(600), Trainer.step
    assert any(probe.repair for probe in whole.probes)
    monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
    taken = 0

    def dies(self: Trainer) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if taken > stop:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train("small_cnn", source, AVERAGED, tmp_path, options=NET)
    monkeypatch.setattr(Trainer, "step", step)
    again = train("small_cnn", source, AVERAGED, tmp_path, options=NET)
    for name in (saved.LAST, ROBUST):
        one, other = load_file(folder / name), load_file(tmp_path / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert again.probes == whole.probes and len(again.epochs) == len(whole.epochs)


def test_a_loss_that_is_no_number_is_mended_or_ends_the_training(tmp_path: Path, monkeypatch) -> None:
    step = Trainer.step

    def explodes(self: Trainer) -> torch.Tensor:
        loss = step(self)
        if self.recipe.lr > 2e-3 and self.done > 5:
            with torch.no_grad():
                next(self.net.parameters()).fill_(torch.nan)
            loss = loss * torch.nan
        return loss

    monkeypatch.setattr(Trainer, "step", explodes)
    found = train("small_cnn", some(), recipe(), tmp_path / "mended", options=SMALL)
    mended = [probe for probe in found.probes if probe.repair]
    assert [probe.repair for probe in mended] == ["lr is 0.00125"] and mended[0].back == 4 and len(found.epochs) == 3
    assert all(bool(torch.isfinite(each).all()) for each in load_file(tmp_path / "mended" / ROBUST).values())
    again = train("small_cnn", some(), recipe(), tmp_path / "mended", options=SMALL)
    assert repr(again) == repr(found) and any(math.isnan(probe.loss) for probe in again.probes)
    for watch in ("stop", "warn"):
        with pytest.raises(BadModel, match=r"loss is no number at step 8 of 12; the weights of the best epoch are in"):
            train("small_cnn", some(), recipe(watch=watch), tmp_path / watch, options=SMALL)
        assert all(bool(torch.isfinite(each).all()) for each in load_file(tmp_path / watch / ROBUST).values())
    with pytest.raises(BadModel, match=r"loss is no number .*, after 4 repairs; no epoch was finished"):
        monkeypatch.setattr(Trainer, "step", lambda self: step(self) * torch.nan)
        train("small_cnn", some(), recipe(), tmp_path / "lost", options=SMALL)


class Flat(torch.nn.Module):
    """One answer to everything, and nothing to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_constant_network_is_seen_once_it_could_have_learned(monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 10)
    trainer = Trainer(Flat(), some(), recipe())
    dog = Watchdog(trainer, passes(trainer))
    trainer.done = 4
    assert not dog.look(torch.tensor([2.3])).findings
    trainer.done = 10
    probe = dog.look(torch.tensor([2.3]))
    assert [each.check for each in probe.findings] == ["constant network"] and probe.back == 4
    assert trainer.done == 4 and trainer.recipe.warm_from == pytest.approx(4 / 12) and trainer.recipe.lr == 2.5e-3
    assert trainer.threat.eps == pytest.approx(0.1 / (trainer.recipe.warm_up * 12))


class Steep(torch.nn.Module):
    """Rises right around the image and falls beyond: a step along the gradient gains less than a random one."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = (x - 0.5).flatten(1) / 0.1
        bent = torch.sin(torch.pi * at.mean(1)) * 0.1 - 40 * (at - at.mean(1, keepdim=True)).pow(2).mean(1)
        return torch.stack([bent, torch.zeros_like(bent)], 1) + self.bias


def test_gradients_that_mislead_are_seen() -> None:
    grey = from_pair(torch.full((40, 1, 8, 8), 0.5), torch.zeros(40, dtype=torch.int64), class_names=("a", "b"))
    trainer = Trainer(Steep(), grey, recipe(warm_up=0.0, watch="warn"))
    trainer.done = 2
    probe = Watchdog(trainer, passes(trainer)).look(torch.tensor([0.7]))
    assert [each.check for each in probe.findings] == ["gradient masking"]


def test_a_sound_training_is_left_alone(tmp_path: Path) -> None:
    found = train("small_cnn", some(600), recipe(epochs=4), tmp_path, options=NET)
    assert not failures(found) and not found.stopped
    assert all(0 <= probe.robust <= probe.single + 0.1 <= 1.1 for probe in found.probes)
    assert all(probe.images >= 32 and -1 <= probe.alignment <= 1 for probe in found.probes)


def test_learning_by_heart_is_seen(tmp_path: Path) -> None:
    how = recipe(epochs=30, threat=Linf(0.15), weight_decay=0.0, warm_up=0.0, watch="stop", schedule="constant")
    found = train("small_cnn", some(150), how, tmp_path)
    assert found.stopped.startswith("robust overfitting after epoch") and len(found.epochs) < 30
    assert found.epochs[-1].findings[-1].check == "robust overfitting"
    assert found.best.robust > found.epochs[-1].robust


def test_repairs() -> None:
    def attack(changed: tuple[Recipe, str] | None) -> Any:
        assert changed is not None
        return changed[0].objective.attack  # type: ignore[attr-defined]

    first = recipe(objective=Adversarial(FGSM()), later=((0.5, Adversarial(PGD(steps=4))),))
    chain = [attack(repaired(first, "catastrophic overfitting", 0.2))]
    for _ in range(5):
        changed = repaired(recipe(objective=Adversarial(chain[-1])), "gradient masking", 0.2)
        chain.append(attack(changed))
    assert chain == [NFGSM(), PGD(steps=2), PGD(steps=4), PGD(steps=8), PGD(steps=16), PGD(steps=20)]
    assert repaired(recipe(objective=Adversarial(PGD(steps=20))), "catastrophic overfitting", 0.2) is None
    changed = repaired(first, "catastrophic overfitting", 0.2)
    assert changed is not None and changed[0].later == ((0.5, Adversarial(PGD(steps=8))),)
    assert repaired(recipe(objective=Standard()), "catastrophic overfitting", 0.2) is None
    wide = repaired(recipe(objective=Adversarial(FGSM()), threat=Linf(0.3)), "catastrophic overfitting", 0.2)
    assert attack(wide) == PGD(steps=2)
    slower = repaired(recipe(), "constant network", 0.25)
    assert slower is not None and dataclasses.replace(slower[0], warm_from=0.0, warm_up=0.3, lr=5e-3) == recipe()
    assert repaired(recipe(), "robust overfitting", 0.5) is None
