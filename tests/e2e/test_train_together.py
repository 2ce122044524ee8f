"""A training by several processes: the same steps as by one, and whoever dies on the way, the same weights in the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_shards import Launcher, once

from holdfast.records import store
from holdfast.training.folder import CLEAN, FINAL, LOG, PROBES, ROBUST
from holdfast.training.saved import LAST

NET = '''
import os, time
import torch
from torch import nn

class Slow(nn.Module):
    """A smooth float64 net that takes its time, so that a kill hits it in the middle."""

    def __init__(self, norm):
        super().__init__()
        norms = [nn.BatchNorm1d(16)] if norm else []
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), *norms, nn.Tanh(), nn.Linear(16, 10))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return self.layers(x)

def net(norm=False):
    return Slow(norm).double()
'''
OTHER = """
def other():
    made = net()
    with torch.no_grad():
        for each in made.parameters():
            each += int(os.environ["RANK"])
    return made
"""
REQUEST = ["train", "--net", "slow_trained:net", "--data", "digits:train", "--limit", "139", "--eps", "0.05"]
REQUEST += ["--set", "epochs=3", "--set", "batch_size=31", "--set", "attack.steps=2", "--set", "average=0.9"]
FEW = [*REQUEST, "--no-audit", "--out"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "slow_trained.py").write_text(NET)
    return folder


@pytest.fixture(scope="module")
def launcher(workshop: Path):
    made = Launcher(workshop)
    yield made
    made.process.communicate()


@pytest.fixture(scope="module")
def by_two(workshop: Path, launcher: Launcher) -> Path:
    assert launcher.ran(2, [*FEW, "two"]) == [0, 0], launcher.told(2)
    first, other = launcher.told(2)
    assert first.count("epoch 3/3") == 1 and "most robust" in first and not other
    return workshop / "two"


def apart(one: Path, other: Path) -> float:
    """How far two trainings are apart in all that they keep; they keep the same files."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    found = 0.0
    for name in (LAST, FINAL, ROBUST, CLEAN):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        found = max(found, *(float((a[key].double() - b[key].double()).abs().max()) for key in a))
    for name in (LOG, PROBES):
        assert (one / name).read_bytes().count(b"\n") == (other / name).read_bytes().count(b"\n")
    return found


def test_the_weights_of_one_process(workshop: Path, by_two: Path, cli, monkeypatch) -> None:
    monkeypatch.chdir(workshop)
    assert cli(*FEW, "one", "--quiet").code == 0
    assert 0 < apart(by_two, workshop / "one") < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_is_killed(victim: int, workshop: Path, launcher: Launcher, by_two: Path, cli, monkeypatch) -> None:
    """Two go on to the same bits; one, or three, to the same weights up to rounding."""
    run = workshop / f"without {victim}"
    children, until = launcher.begin(2, [*FEW, run.name], nap=0.005), time.monotonic() + 60
    while time.monotonic() < until and not (run / LAST).exists():
        time.sleep(0.002)
    os.kill(children[victim], signal.SIGKILL)
    codes = launcher.ended()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 4, launcher.told(2)
    assert "another process of this training has ended" in launcher.told(2)[1 - victim]
    assert not (run / FINAL).exists()
    by_one, by_three = (shutil.copytree(run, workshop / f"{run.name}, by {number}") for number in ("one", "three"))
    assert launcher.ran(2, [*FEW, run.name]) == [0, 0], launcher.told(2)
    assert apart(run, by_two) == 0
    monkeypatch.chdir(workshop)
    assert cli(*FEW, by_one.name, "--quiet").code == 0
    assert launcher.ran(3, [*FEW, by_three.name]) == [0, 0, 0], launcher.told(3)
    assert max(apart(by_one, by_two), apart(by_three, by_two)) < 1e-9


def test_errors_are_told_once(workshop: Path, launcher: Launcher) -> None:
    (workshop / "pairs.toml").write_text('objective = "clp"\n')
    plain = REQUEST[: REQUEST.index("--set")]
    for name, arguments, error in (
        ("of all", [*plain, "--recipe", "pairs.toml", "--out", "none"], "the loss of CLP is of a batch as a whole"),
        ("of the first", [*plain, "--out", "slow_trained.py/none"], "is not a folder"),
    ):
        assert 2 in launcher.ran(2, arguments), name
        once(launcher.told(2), error)
    assert not (workshop / "none").exists()


@pytest.mark.slow
def test_all_begin_with_the_weights_of_the_first(workshop: Path, launcher: Launcher, by_two: Path) -> None:
    (workshop / "drawn_anew.py").write_text(NET + OTHER)
    other = ["drawn_anew:other" if word == "slow_trained:net" else word for word in FEW]
    assert launcher.ran(2, [*other, "drawn anew"]) == [0, 0], launcher.told(2)
    assert apart(workshop / "drawn anew", by_two) == 0


@pytest.mark.slow
def test_a_divided_net(workshop: Path, launcher: Launcher, cli, monkeypatch) -> None:
    """The weights of one process that has it whole; killed and resumed, the same; gone on with by one process, too."""
    plain = [*FEW[:-1], "--set", "average=0", "--set", "accumulate=2", "--out"]
    assert launcher.ran(2, [*plain, "divided", "--shard"]) == [0, 0], launcher.told(2)
    monkeypatch.chdir(workshop)
    assert cli(*plain, "undivided", "--quiet").code == 0
    assert apart(workshop / "divided", workshop / "undivided") < 1e-9
    run = workshop / "divided and killed"
    children, until = launcher.begin(2, [*plain, run.name, "--shard"], nap=0.005), time.monotonic() + 60
    while time.monotonic() < until and not (run / LAST).exists():
        time.sleep(0.002)
    os.kill(children[1], signal.SIGKILL)
    assert launcher.ended() == [4, -signal.SIGKILL] and not (run / FINAL).exists(), launcher.told(2)
    by_one = shutil.copytree(run, workshop / "no more divided")
    assert launcher.ran(2, [*plain, run.name, "--shard"]) == [0, 0], launcher.told(2)
    assert apart(run, workshop / "divided") == 0
    assert cli(*plain, by_one.name, "--quiet").code == 0
    assert apart(by_one, workshop / "divided") < 1e-9
    assert 2 in launcher.ran(2, [*FEW, "refused", "--shard"])
    once(launcher.told(2), "average is 0.9, which needs the whole net")
    alone = cli(*plain, "refused", "--shard")
    assert alone.code == 2 and "one process cannot divide a net" in alone.err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun(workshop: Path, launcher: Launcher) -> None:
    """The real thing, with batch norm and an audit at its end: a process is killed, torchrun ends the others, all go on."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "holdfast"]
    command += [*REQUEST, "--option", "norm=true", "--set", "averaging=uniform", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NAP": "0.001"}

    def begun(out: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, out], cwd=workshop, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole, (said, problems) = (process := begun("by torchrun")), process.communicate()
    assert whole.returncode == 0, problems
    assert said.count("robust accuracy") == 1 and "report:" in said and problems.count("epoch 3/3") == 1
    assert (workshop / "by torchrun" / "audit" / store.SUMMARY).exists()
    killed, until = begun("torn"), time.monotonic() + 120
    while time.monotonic() < until and not (workshop / "torn" / LAST).exists():
        time.sleep(0.01)
    (victim, *_) = _children(killed.pid)
    os.kill(victim, signal.SIGKILL)
    killed.communicate(timeout=120)
    assert killed.returncode == 1 and not (workshop / "torn" / FINAL).exists()
    again = begun("torn")
    _, problems = again.communicate()
    assert again.returncode == 0, problems
    assert apart(workshop / "torn", workshop / "by torchrun") == 0


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
