"""An audit by several processes is the audit by one: record for record, however many, and whoever dies on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_resume import REQUEST, count, lines, same
from test_resume import workshop as workshop

from holdfast.records import certified, conditions, defended, part, sequences, store
from holdfast.records.shard import SHARD_POINTS, SHARDS

FEW = [*REQUEST[: REQUEST.index("--slots")], "--slots", "3", "--out"]
"""Of 24 samples, 6 or 9 have their process from the start, and the others go to who asks first."""
MORE = [
    *("audit", "--model", "slow_net:net", "--data", "odd.npz", "--plan", "quick", "--eps", "0.012", "--slots", "3"),
    *("--corruptions", "contrast", "fog", "pixelate", "--perturbations", "all", "--out"),
]
BEHIND = [
    *("audit", "--model", "slow_net:net", "--data", "odd.npz", "--eps", "0.012", "--defence", "gaussian_noise"),
    *("--steps", "2", "--restarts", "1", "--budgets", "1", "2", "--evaluations", "2", "--tries", "2", "--out"),
]
"""All that a command measures, on 37 images; a defence is attacked in place of the model, by a plan of its own."""
PARTS = {conditions.FOLDER: MORE, sequences.FOLDER: MORE, defended.FOLDER: BEHIND}
FORKING = """
import json, os, sys
import torch, torch.distributed
torch.set_num_threads(1)
import holdfast.audit.run, holdfast.models.load, holdfast.data.load, holdfast.attacks.pgd, holdfast.attacks.apgd
import holdfast.cli.report, holdfast.training.run, holdfast.training.recipes, holdfast.experiments.learning_curve
import holdfast.training.board, sklearn.datasets, torch._dynamo
from holdfast.cli.app import run
for line in sys.stdin:
    arguments, environments = json.loads(line)
    agent = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank, environment in enumerate(environments):
        child = os.fork()
        if not child:
            os.environ.update(environment, MASTER_PORT=str(agent.port))
            sys.stdout = sys.stderr = open(f"told.{rank}", "w", buffering=1)
            os._exit(run(arguments))
        children.append(child)
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)
"""
OTHER = """
import os
import torch
import slow_net

def net():
    made = slow_net.net()
    with torch.no_grad():
        made.first += int(os.environ["RANK"])
    return made
"""


class Launcher:
    """A process that has imported everything already and begins ranks as torchrun does, but leaves them to themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def begin(self, world: int, arguments: list[str], *, nap: float = 0.0) -> list[int]:
        """Starts a command in ``world`` processes; returns their process ids."""
        shared = {
            "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "NAP": str(nap),
        }
        ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([arguments, ranks]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ended(self) -> list[int]:
        """Waits for their end; returns their exit codes, -9 for a killed one."""
        assert self.process.stdout
        return [os.waitstatus_to_exitcode(status) for status in json.loads(self.process.stdout.readline())]

    def ran(self, world: int, arguments: list[str]) -> list[int]:
        """Starts a command and waits."""
        self.begin(world, arguments)
        return self.ended()

    def told(self, world: int) -> list[str]:
        """What each process of the last command printed."""
        return [(self.folder / f"told.{rank}").read_text() for rank in range(world)]


@pytest.fixture(scope="module")
def launcher(workshop: Path):
    made = Launcher(workshop)
    yield made
    made.process.communicate()


def clean(run: Path, whole: str = "whole") -> None:
    """Nothing is left that a run of one process would not have left."""
    found = ({str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (run, run.parent / whole))
    assert next(found) == next(found)


@pytest.fixture(scope="module")
def measured(workshop: Path, launcher: Launcher, digits) -> dict[str, Path]:
    """The folder of each part, by one process."""
    images, labels = (each[:37] for each in digits)
    np.savez(workshop / "odd.npz", images=images, labels=labels, class_names=[str(label) for label in range(10)])
    for command, folder in ((MORE, "measured"), (BEHIND, "behind")):
        assert launcher.ran(1, [*command, folder]) == [0], launcher.told(1)
    return {name: workshop / ("measured" if command is MORE else "behind") for name, command in PARTS.items()}


def alike(run: Path, whole: Path) -> None:
    """Line for line and number for number in every part, and the same files."""
    if (whole / store.RECORDS).exists():
        same(run, whole)
    for name in (name for name in PARTS if (whole / name).exists()):
        one, other = (sorted((each / name / part.OUTCOMES).read_bytes().splitlines()) for each in (run, whole))
        assert one == other, name
        one, other = (json.loads((each / name / part.SUMMARY).read_text()) for each in (run, whole))
        assert one | {"seconds": 0} == other | {"seconds": 0}, name
    clean(run, whole.name)


def torchrun(world: int, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command by so many processes of the real torchrun, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = subprocess.run(
        [*command, "-m", "holdfast", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_torchrun(workshop: Path, cli, monkeypatch) -> None:
    done = torchrun(2, [*REQUEST, "two", "--json"], workshop)
    same(workshop / "two", workshop / "whole")
    clean(workshop / "two")
    assert json.loads(done.stdout) == json.loads((workshop / "two" / store.SUMMARY).read_text())
    stages = [line.split(":")[0] for line in done.stderr.splitlines() if "unbroken" in line]
    assert stages[0] == "clean" and len(stages) == len(set(stages)) >= 5, done.stderr
    monkeypatch.chdir(workshop)
    verified = cli("verify", "two", "--model", "slow_net:net")
    assert verified.code == 0, verified.err


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_as_by_one(world: int, workshop: Path, launcher: Launcher) -> None:
    run = workshop / f"by {world}"
    assert launcher.ran(world, [*FEW, run.name]) == [0] * world, launcher.told(world)
    same(run, workshop / "whole")
    clean(run)
    first, *others = launcher.told(world)
    assert first.count("robust accuracy") == 1 and "apgd-t at eps 0.012" in first
    assert not any(others)
    assert launcher.ran(world, [*FEW, run.name]) == [0] * world  # a finished run is only read
    assert [bool(told) for told in launcher.told(world)] == [True] + [False] * len(others)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_is_killed(victim: int, workshop: Path, launcher: Launcher, cli, monkeypatch) -> None:
    """The other one says so and ends; one process goes on, or three."""
    run, by_one = workshop / f"without {victim}", workshop / f"without {victim}, by one"
    children = launcher.begin(2, [*FEW, run.name], nap=0.004)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.002)
        os.kill(children[0], signal.SIGSTOP)  # it would take the shard over
        if count(run / store.RECORDS) > 40 and any(map(count, run.glob(SHARDS))):
            break
        os.kill(children[0], signal.SIGCONT)
    assert time.monotonic() < deadline
    os.kill(children[victim], signal.SIGKILL)
    os.kill(children[0], signal.SIGCONT)
    codes = launcher.ended()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 4, launcher.told(2)
    assert "another process of this run has ended" in launcher.told(2)[1 - victim]
    assert not (run / store.SUMMARY).exists()
    shutil.copytree(run, by_one)
    assert launcher.ran(3, [*FEW, run.name]) == [0, 0, 0], launcher.told(3)
    monkeypatch.chdir(workshop)
    assert cli(*FEW, by_one.name, "--quiet").code == 0
    for finished in (run, by_one):
        same(finished, workshop / "whole")
        clean(finished)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("name", [conditions.FOLDER, defended.FOLDER])
def test_everything_by_torchrun(name: str, world: int, workshop: Path, measured: dict[str, Path]) -> None:
    run = workshop / f"{name} by {world}"
    done = torchrun(world, [*PARTS[name], run.name], workshop)
    alike(run, measured[name])
    ends = re.findall(r"^(\w+): (\d+)/\2, ", done.stderr, re.MULTILINE)
    asked = {"defence"} if name == defended.FOLDER else {conditions.FOLDER, sequences.FOLDER}
    assert asked <= {what for what, _ in ends} and len(ends) == len(set(ends)), done.stderr  # of all together, once
    assert done.stdout.count("report:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_is_killed_in_a_part(
    name: str, victim: int, workshop: Path, measured: dict[str, Path], launcher: Launcher, cli, monkeypatch
) -> None:
    """While both are at work on that part; one process goes on, or three."""
    run, by_one = workshop / f"{name} without {victim}", workshop / f"{name} without {victim}, by one"
    children = launcher.begin(2, [*PARTS[name], run.name], nap=0.02)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not any(map(count, (run / name).glob(part.SHARDS))):
        time.sleep(0.002)
    os.kill(children[victim], signal.SIGKILL)
    codes = launcher.ended()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 4, launcher.told(2)
    kept = sum(map(count, [run / name / part.OUTCOMES, *(run / name).glob(part.SHARDS)]))
    assert 0 < kept < count(measured[name] / name / part.OUTCOMES) and not (run / name / part.SUMMARY).exists()
    shutil.copytree(run, by_one)
    assert launcher.ran(3, [*PARTS[name], run.name]) == [0, 0, 0], launcher.told(3)
    monkeypatch.chdir(workshop)
    assert cli(*PARTS[name], by_one.name, "--quiet").code == 0
    alike(run, measured[name])
    alike(by_one, measured[name])


def answers(folder: Path) -> dict[str, object]:
    """What an explanation found: every file but the page and who asked when, and of answers all but the seconds."""
    left = {
        path.relative_to(folder): path for path in folder.rglob("*.*") if path.parent != folder or "cases" in path.name
    }
    return {
        str(name): {**json.loads(path.read_text()), "seconds": 0} if name.name == "answer.json" else path.read_bytes()
        for name, path in left.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_questions_are_shared(victim: int, workshop: Path, measured: dict[str, Path], launcher: Launcher) -> None:
    """One of two processes is killed while they ask; another one goes on, or three."""
    command = ["explain", *MORE[1:5], "--eps", "0.012", "--limit", "7", "--set", "restarts.num=3"]
    command += ["--probe", "gradients", "frequencies", "restarts", "--out"]
    whole, run, by_one = (workshop / f"explained {name} {victim}" for name in ("whole", "without", "by one without"))
    assert launcher.ran(1, [*command, whole.name]) == [0], launcher.told(1)
    children = launcher.begin(2, [*command, run.name], nap=0.001)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not [*run.glob("*/answer.json")]:
        time.sleep(0.01)
    os.kill(children[victim], signal.SIGKILL)
    assert launcher.ended()[victim] == -signal.SIGKILL
    assert 0 < len([*run.glob("*/answer.json")]) <= 3 and not (run / "report.html").exists()
    shutil.copytree(run, by_one)
    assert launcher.ran(3, [*command, run.name]) == [0, 0, 0], launcher.told(3)
    assert [bool(told) for told in launcher.told(3)] == [True, False, False]
    assert launcher.ran(1, [*command, by_one.name]) == [0], launcher.told(1)
    assert answers(run) == answers(by_one) == answers(whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_certificates(world: int, workshop: Path, measured: dict[str, Path], launcher: Launcher) -> None:
    command = ["certify", *MORE[1:5], "--sigma", "0.1", "--select", "5", "--estimate", "50", "--radii", "0.1"]
    command += ["--steps", "1", "--draws", "1", "--predict", "20", "--out"]
    whole, run = (workshop / f"certified by {count} of {world}" for count in (1, world))
    assert launcher.ran(1, [*command, whole.name]) == [0], launcher.told(1)
    assert launcher.ran(world, [*command, run.name]) == [0] * world, launcher.told(world)
    assert [bool(told) for told in launcher.told(world)] == [True] + [False] * (world - 1)
    for name in (certified.CERTIFICATES, certified.ATTACKS):
        one, other = (sorted((each / name / part.OUTCOMES).read_bytes().splitlines()) for each in (run, whole))
        assert one == other and len(one) == 37
    clean(run, whole.name)


@pytest.mark.slow
def test_again_and_again(workshop: Path, launcher: Launcher) -> None:
    """Each of three processes is killed in its turn, and another number of them goes on."""
    run = workshop / "again"
    for world, victim in ((3, 2), (2, 0), (3, 1)):
        before = sum(map(count, [run / store.RECORDS, *run.glob(SHARDS)]))
        children = launcher.begin(world, [*FEW, run.name], nap=0.01)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and sum(map(count, [run / store.RECORDS, *run.glob(SHARDS)])) < before + 25:
            time.sleep(0.002)
        os.kill(children[victim], signal.SIGKILL)
        assert -signal.SIGKILL in launcher.ended()
        assert not (run / store.SUMMARY).exists()
    assert launcher.ran(2, [*FEW, run.name]) == [0, 0], launcher.told(2)
    same(run, workshop / "whole")
    clean(run)


def test_a_folder_in_use(workshop: Path, launcher: Launcher, cli, monkeypatch) -> None:
    run = workshop / "busy"
    children = launcher.begin(2, [*FEW, run.name], nap=0.01)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and count(run / store.RECORDS) < 5:
        time.sleep(0.002)
    monkeypatch.chdir(workshop)
    refused = cli(*FEW, run.name, "--quiet")
    assert refused.code == 2 and "another process is writing" in refused.err
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert launcher.ended() == [-signal.SIGKILL] * 2


def once(told: list[str], error: str) -> None:
    """One process says what happened, and the others nothing."""
    assert sum(each.count("error:") for each in told) == 1 and error in "".join(told), told
    assert "Traceback" not in "".join(told)


def test_errors_are_told_once(workshop: Path, launcher: Launcher) -> None:
    (workshop / "other_net.py").write_text(OTHER)
    held = workshop / "held"
    shutil.copytree(workshop / "whole", held)
    (held / store.SUMMARY).unlink()
    (held / store.POINTS).write_bytes(b"")
    swapped = ["other_net:net" if word == "slow_net:net" else word for word in FEW]
    foggy = ["audit", "--model", "other_net:net", "--data", "data.npz", "--corruptions", "fog"]
    for name, arguments, error, code in (
        ("of all", ["audit", "--model", "slow_net:net", "--plan", "nosuch", "--eps", "0.1"], "unknown plan", 2),
        ("of the first", [*FEW, "held"], "shorter than its records say", 2),
        ("of another", [*swapped, "swapped"], "process 1 loads another model than process 0", 2),
        ("not shared", ["detect", *MORE[1:5], "--eps", "0.1"], "holdfast detect is the work of one process", 2),
        ("of another, in a part", [*foggy, "--out", "foggy"], "process 1 would do another run than process 0", 2),
    ):
        assert code in launcher.ran(2, arguments), name
        once(launcher.told(2), error)
    for run in (held, workshop / "swapped", workshop / "foggy"):  # other tests kill their processes
        assert not list(run.rglob(SHARDS)) and not list(run.rglob(SHARD_POINTS))
    assert not lines(workshop / "swapped")
