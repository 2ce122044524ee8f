"""What goes wrong around a training: clear errors, the last good checkpoint intact, and the same bits afterwards."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from holdfast.attacks.apgd import APGD
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.friendly import Friendly
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.rs_fgsm import RSFGSM
from holdfast.cli.app import run as command
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadModel, StorageError
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.adversarial import Adversarial
from holdfast.threats.linf import Linf
from holdfast.training import run
from holdfast.training.folder import LOG, ROBUST
from holdfast.training.loop import Trainer
from holdfast.training.recipe import Recipe
from holdfast.training.run import train
from holdfast.training.saved import LAST

SMALL = {"width": 4, "hidden": 16}


def some(n: int = 120) -> Source:
    source = load("digits:train")
    batch = source.take(source.ids[:n])
    return from_pair(batch.images, batch.labels)


def recipe(**change: Any) -> Recipe:
    settings = {"objective": Adversarial(PGD(steps=2)), "threat": Linf(0.1), "epochs": 3, "batch_size": 32, "lr": 5e-3}
    return Recipe(**{**settings, **change})


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("writes", [1, 3, 6])
def test_a_full_disk_leaves_the_last_good_checkpoint(writes: int, tmp_path: Path, monkeypatch) -> None:
    train("small_cnn", some(), recipe(), tmp_path / "whole", options=SMALL)
    fsync, left = os.fsync, writes

    def full(file: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left to write"):
        train("small_cnn", some(), recipe(), tmp_path / "full", options=SMALL)
    monkeypatch.setattr(os, "fsync", fsync)
    train("small_cnn", some(), recipe(), tmp_path / "full", options=SMALL)
    assert same(tmp_path / "whole" / LAST, tmp_path / "full" / LAST)
    assert not [path for path in (tmp_path / "full").iterdir() if path.suffix == ".tmp"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(StorageError, match="is not a folder, or lies below something that is none"):
        train("small_cnn", some(), recipe(), tmp_path / "file" / "run", options=SMALL)


def test_a_batch_that_is_no_number(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    images[7, 0, 3, 3] = np.nan
    with pytest.raises(BadData, match="holds the pixel nan"):
        train("small_cnn", from_pair(images, np.arange(60) % 3), recipe(), tmp_path / "run", options=SMALL)


def test_a_label_out_of_range(tmp_path: Path) -> None:
    images = np.zeros((60, 1, 8, 8), np.uint8)
    with pytest.raises(BadData, match="label"):
        from_pair(images, np.arange(60), class_names=("a", "b"))
    with pytest.raises(BadModel, match=r"has 3 outputs, and the data have 10 classes"):
        train("small_cnn", some(), recipe(), tmp_path / "run", options={**SMALL, "classes": 3})
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_bad_input_from_the_command_line(tmp_path: Path, capsys) -> None:
    for given, said in (
        (["--eps", "8"], "8"),
        (["--eps", "0.1", "--threat", "linf,l2"], "2 sets and 1 radii"),
        (["--eps", "0.1", "--recipe", "pgdd"], "unknown recipe 'pgdd'"),
        (["--eps", "0.1", "--set", "epochs=many"], "epochs is 'many'"),
        (["--eps", "0.1", "--set", "epochs=-1"], "epochs is -1"),
        (["--eps", "0.1", "--helper", str(tmp_path / "none.safetensors")], "cannot be read"),
        (["--eps", "0.1", "--net", "small_cn"], "small_cn"),
    ):
        assert command(["train", *given, "--limit", "40", "--out", str(tmp_path / "run")]) == 2, given
        assert said in capsys.readouterr().err, given


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills(tmp_path: Path) -> None:
    """Killed twenty times at random moments, a training with repairs, averages and augmentation ends in the same bits."""
    settings = ["epochs=8", "average=0.95", "shift=2", "flip=true", "batch_size=16", "lr=0.005", "warm_up=0.1"]
    asked = ["train", "--recipe", "fgsm", "--eps", "0.25", "--limit", "1000", "--no-audit", "-q", "--option", "width=8"]
    line = [sys.executable, "-c", "import sys; from holdfast.training import run; run.SAVE_EVERY = 0.0\n"
            "from holdfast.cli.app import run as go; sys.exit(go(sys.argv[1:]))", *asked]  # fmt: skip
    line += [part for each in settings for part in ("--set", each)] + ["--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run([*line, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    whole, chance = time.monotonic() - began, random.Random(0)
    kills = folder = 0
    while kills < 20:
        torn, done = tmp_path / f"torn{folder}", False
        while not done:
            process = subprocess.Popen([*line, str(torn)], env=environment, stdout=subprocess.DEVNULL)
            try:
                process.wait(chance.uniform(0.3, 0.7) * whole if kills < 20 else None)
                done = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert process.returncode == 0
        for name in (LAST, ROBUST):
            assert same(tmp_path / "whole" / name, torn / name)
        lines = [(tmp_path / which / LOG).read_bytes().count(b"\n") for which in ("whole", torn.name)]
        assert lines[0] == lines[1]
        folder += 1


INNER = {
    "fgsm": FGSM(),
    "rs_fgsm": RSFGSM(),
    "n_fgsm": NFGSM(),
    "pgd": PGD(steps=3),
    "apgd": APGD(steps=3, restarts=1),
    "friendly": Friendly(steps=3),
}
WRAPPERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "awp": {"awp": 0.005},
    "align": {"align": 0.1},
    "average": {"average": 0.95},
    "uniform": {"average": 0.95, "averaging": "uniform", "average_from": 0.5},
}


def cells() -> list[Any]:
    """Every objective with every inner attack that it takes, and every wrapper."""
    found = []
    for name in registry.names("objective"):
        kind = registry.load("objective", name)
        fields = kind.__dataclass_fields__
        for attack in INNER if "attack" in fields else ("none",):
            try:
                made = {"attack": INNER[attack]} if attack != "none" else {}
                if "helper" in fields:
                    made["helper"] = helper()
                objective = kind(**made)
            except Exception as error:
                assert "climbs a loss of its own" in str(error), error
                continue
            for wrapper in WRAPPERS:
                found.append(pytest.param(objective, wrapper, id=f"{name}-{attack}-{wrapper}"))
    return found


def helper() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SmallCNN(classes=10, **SMALL).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "wrapper"), cells())
def test_every_cell_learns(objective: Any, wrapper: str) -> None:
    """200 steps of each combination of attack, loss and wrapper: the loss falls and the net is no constant."""
    how = recipe(objective=objective, threat=Linf(0.05), epochs=50, shift=0, **WRAPPERS[wrapper])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCNN(classes=10 + objective.outputs, **SMALL)
    trainer = Trainer(net, some(128), how)
    losses = [float(trainer.step()) for _ in range(200)]
    assert np.isfinite(losses).all()
    # The radius grows over the first 60 steps: what is compared is the loss at the full one.
    assert np.mean(losses[-20:]) < np.mean(losses[:10])
    x, y = trainer.batches.at(0)[:2]
    with torch.no_grad():
        answers = trainer.judged().eval()(x)[:, :10].argmax(1)
    assert len(answers.unique()) > 3 and float((answers == y).float().mean()) > 0.3
