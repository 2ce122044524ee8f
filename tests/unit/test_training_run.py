"""A training in a folder: stopped anywhere it goes on to the same bits, and what it keeps is what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.foundation.errors import BadFile, BadValue, PlanMismatch, UnknownName
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training import recipes, run, watchdog
from holdfast.training.folder import CLEAN, LOG, ROBUST, RUN, EpochRecord
from holdfast.training.loop import Trainer
from holdfast.training.recipe import Recipe
from holdfast.training.run import Training
from holdfast.training.run import train as whole_run
from holdfast.training.saved import BEFORE, LAST
from holdfast.training.schedule import rate

SMALL = {"width": 4, "hidden": 16}


def some(n: int = 120):
    source = load("digits:train")
    batch = source.take(source.ids[:n])
    return from_pair(batch.images, batch.labels)


def recipe(**change: object) -> Recipe:
    settings = {"objective": Adversarial(PGD(steps=2)), "threat": Linf(0.1), "epochs": 3, "batch_size": 32, "lr": 5e-3}
    return Recipe(**{**settings, "shift": 1, "flip": True, "average": 0.9, **change})


def train(*given: Any, **options: Any) -> list[EpochRecord]:
    found = whole_run(*given, **options)
    assert isinstance(found, Training) and not found.stopped
    return list(found.epochs)


def kept(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in (LAST, ROBUST, CLEAN):
        found |= {f"{name}/{key}": value.numpy().tobytes() for key, value in load_file(folder / name).items()}
    return found


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_stopped_at_any_step_it_goes_on_to_the_same_bits(optimiser: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "EVERY", 3)
    how = recipe(optimiser=optimiser)
    whole = train("small_cnn", some(), how, tmp_path / "whole", options=SMALL)
    monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
    step = Trainer.step

    class Killed(BaseException):
        pass

    for stop in (1, 3, 4, 6, 9, 11):

        def dies(self, stop=stop):
            if self.done == stop:
                raise Killed
            return step(self)

        monkeypatch.setattr(Trainer, "step", dies)
        with pytest.raises(Killed):
            train("small_cnn", some(), how, tmp_path / "torn", options=SMALL)
    monkeypatch.setattr(Trainer, "step", step)
    with (tmp_path / "torn" / LOG).open("ab") as file:
        file.write(b'{"epoch": 3, "lo')
    resumed = train("small_cnn", some(), how, tmp_path / "torn", options=SMALL)
    assert kept(tmp_path / "torn") == kept(tmp_path / "whole")
    bare = [each.model_copy(update={"seconds": 0.0, "watched": 0.0}) for each in resumed]
    assert bare == [each.model_copy(update={"seconds": 0.0, "watched": 0.0}) for each in whole] and len(bare) == 3
    again = train("small_cnn", some(), how, tmp_path / "torn", options=SMALL)
    assert again == resumed


DYING = """
import os, signal, sys
from holdfast.cli.app import run
from holdfast.training.loop import Trainer

step = Trainer.step

def dies(self):
    if self.done == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)

Trainer.step = dies
sys.exit(run(sys.argv[1:]))
"""


def test_killed_for_real(tmp_path: Path, cli) -> None:
    """Nothing is closed, flushed or said by a process that is killed in the middle; this one goes on."""
    asked = ["train", "--eps", "0.1", "--recipe", "standard", "--limit", "300", "-q", "--no-audit"]
    asked += ["--set", "epochs=4", "--option", "width=4", "--out"]
    assert cli(*asked, tmp_path / "whole").code == 0
    command = [sys.executable, "-c", DYING, *asked, str(tmp_path / "torn")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 0 < (tmp_path / "torn" / LOG).read_bytes().count(b"\n") < 4
    ran = cli(*asked, tmp_path / "torn")
    assert ran.code == 0 and "most robust" in ran.out, ran.err
    assert kept(tmp_path / "torn") == kept(tmp_path / "whole")


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    whole = train("small_cnn", some(), recipe(), tmp_path / "whole", options=SMALL)
    train("small_cnn", some(), recipe(), tmp_path / "torn", options=SMALL)
    last = tmp_path / "torn" / LAST
    last.write_bytes(last.read_bytes()[:-100])
    resumed = train("small_cnn", some(), recipe(), tmp_path / "torn", options=SMALL)
    assert [each.loss for each in resumed] == [each.loss for each in whole]
    assert kept(tmp_path / "torn") == kept(tmp_path / "whole")
    assert load_file(tmp_path / "torn" / BEFORE)  # the torn one did not take the place of the whole one
    for name in (LAST, BEFORE):
        (tmp_path / "torn" / name).write_bytes(b"nothing")
    with pytest.raises(BadFile, match=r"neither last\.safetensors nor last-1\.safetensors"):
        train("small_cnn", some(), recipe(), tmp_path / "torn", options=SMALL)
    with pytest.raises(PlanMismatch, match=r"its lr is 0\.005, now it is 0\.001"):
        train("small_cnn", some(), recipe(lr=1e-3), tmp_path / "whole", options=SMALL)


def test_what_is_kept_says_what_it_is_and_was_chosen_on_held_out_images(tmp_path: Path) -> None:
    history = train("small_cnn", some(), recipe(epochs=4), tmp_path / "run", options=SMALL)
    best = max(history, key=lambda each: (each.robust, each.clean))
    with safe_open(tmp_path / "run" / ROBUST, "pt") as file:
        metadata = file.metadata()
    assert metadata["epoch"] == str(best.epoch) and metadata["net"] == "small_cnn"
    assert json.loads(metadata["operations"]) == ["adversarial", "translate", "flip"]
    info = json.loads((tmp_path / "run" / RUN).read_text())
    assert (info["n"], info["held_out"]) == (108, 12)
    assert all(0 <= each.robust <= each.clean <= 1 and each.robust <= each.single + 1e-9 for each in history)


def test_recipes(tmp_path: Path) -> None:
    threat = Linf(0.1)
    for name in recipes.names():
        assert recipes.recipe(name, threat, {}).threat is threat
    made = recipes.recipe("pgd", threat, {"epochs": 3, "lr": 0.01})
    assert (made.epochs, made.lr, made.objective) == (3, 0.01, Adversarial(PGD(steps=10)))
    assert recipes.recipe("standard", threat, {}).objective == Standard()
    smoothed = recipes.recipe("smoothing", threat, {"options.sigma": 0.5}).objective
    assert (smoothed.sigma, smoothed.share, smoothed.clip) == (0.5, 1.0, False)  # the file's own options stay
    assert recipes.recipe("pgd", threat, {"attack.steps": 3}).objective.attack.steps == 3
    with pytest.raises(UnknownName, match="sigmas"):
        recipes.recipe("smoothing", threat, {"options.sigmas": 0.5})
    own = tmp_path / "own.toml"
    own.write_text('objective = "adversarial"\nepochs = 7\n[attack]\nname = "fgsm"\n')
    assert recipes.recipe(str(own), threat, {}).epochs == 7
    with pytest.raises(UnknownName, match="unknown recipe 'pgdd'"):
        recipes.recipe("pgdd", threat, {})
    with pytest.raises(UnknownName, match="epochz"):
        recipes.recipe("pgd", threat, {"epochz": 3})
    own.write_text('objective = "adversarial"\n[attack]\nname = "pgd"\nstepz = 3\n')
    with pytest.raises(UnknownName, match="option of pgd 'stepz'"):
        recipes.recipe(str(own), threat, {})
    with pytest.raises(BadFile, match="does not exist"):
        recipes.recipe(str(tmp_path / "none.toml"), threat, {})
    with pytest.raises(BadValue, match="schedule is 'linear'"):
        recipes.recipe("pgd", threat, {"schedule": "linear"})


def test_schedules() -> None:
    assert [round(rate("cosine", share), 3) for share in (0, 0.5, 1)] == [1, 0.5, 0]
    assert [round(rate("one_cycle", share), 3) for share in (0, 0.15, 0.3, 0.65, 1)] == [0, 0.5, 1, 0.5, 0]
    assert [rate("piecewise", share) for share in (0, 0.74, 0.75, 0.9)] == [1, 1, 0.1, 0.01]
    assert {rate("constant", share) for share in (0, 0.5, 1)} == {1}
