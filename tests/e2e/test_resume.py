"""A run that is killed, torn or interrupted, again and again, ends as one that never was."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from holdfast.cli.app import run as command
from holdfast.records import store

SLOW = '''
import os, time
import torch
from torch import nn

class Slow(nn.Module):
    """A smooth float64 net that takes its time, so that a kill hits it in the middle.

    It takes image by image: a matrix product over a batch rounds otherwise when the batch is of another size.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(1024, 24, generator=generator, dtype=torch.float64) / 32)
        self.second = nn.Parameter(torch.randn(24, 10, generator=generator, dtype=torch.float64))

    def forward(self, x):
        time.sleep(float(os.environ.get("NAP", "0")))
        return torch.stack([((image.flatten() - 0.3) @ self.first).tanh() @ self.second for image in x])

def net():
    return Slow()
'''
FORKING = """
import os, sys
import torch
torch.set_num_threads(1)
import holdfast.audit.run, holdfast.models.load, holdfast.data.load, holdfast.attacks.pgd, holdfast.attacks.apgd
from holdfast.cli.app import run
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(run(line.split()))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
REQUEST = [
    *("audit", "--model", "slow_net:net", "--data", "data.npz", "--plan", "quick", "--eps", "0.012"),
    *("--curve", "0.004", "--slots", "4", "--out"),
]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, digits) -> Path:
    """A folder with a slow net, 40 digits labelled by what it says to most of them, and the uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "slow_net.py").write_text(SLOW)
    images, _ = digits
    images = images[:24]
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        here.syspath_prepend(folder)
        import slow_net
        import torch

        labels = slow_net.net()(torch.from_numpy(images / 255.0)).argmax(1).numpy()
        labels[5] = (labels[5] + 1) % 10  # one that is wrong without any change
        np.savez(folder / "data.npz", images=images, labels=labels, class_names=[str(label) for label in range(10)])
        assert command([*REQUEST, "whole", "--quiet"]) == 0
    return folder


def start(folder: Path, out: str, *, nap: float = 0.0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", *REQUEST, out],
        cwd=folder,
        env={**os.environ, "NAP": str(nap), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background of a shell is started with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / store.RECORDS).read_text().splitlines()]


def same(run: Path, whole: Path, *, but: tuple[str, ...] = ()) -> None:
    """Record for record, point for point, number for number, but for some fields of the summary."""
    one, other = ({_key(line): _facts(line) for line in lines(folder)} for folder in (run, whole))
    assert {key: facts for key, facts in one.items() if key[-1]} == {
        key: facts for key, facts in other.items() if key[-1]
    }
    twice = [key for key, count in Counter(_key(line) for line in lines(run)).items() if count > 1]
    assert not twice, f"computed twice: {twice}"
    mine, its = (load_file(folder / store.FINAL_POINTS) for folder in (run, whole))
    assert all(np.array_equal(mine[name], its[name]) for name in ("ids", "eps", "points"))
    mine, its = (json.loads((folder / store.SUMMARY).read_text()) for folder in (run, whole))
    for changing in ("seconds", "discarded", "measured", *but):  # of the session that ended the run
        mine.pop(changing), its.pop(changing)
    assert mine == its


def _key(line: dict) -> tuple:
    return line["stage"], line["eps"], line["id"], line["search"] if not line["final"] else -1, line["final"]


def _facts(line: dict) -> dict:
    return {key: value for key, value in line.items() if key != "point"}


def resumed(folder: Path, out: str, cli, monkeypatch) -> None:
    """The same command once more, in this process, to the end."""
    monkeypatch.chdir(folder)
    ran = cli(*REQUEST, out, "--quiet")
    assert ran.code == 0, ran.err


def test_the_uninterrupted_run_is_worth_interrupting(workshop: Path) -> None:
    kinds = Counter((line["stage"], line["eps"], line["final"], line["fooled"]) for line in lines(workshop / "whole"))
    assert kinds["apgd-t", 0.004, False, False] > 10 and kinds["apgd-t", 0.012, True, False] > 2, kinds
    assert sum(count for kind, count in kinds.items() if kind[-1]) > 8
    assert len({line["eps"] for line in lines(workshop / "whole")}) == 3


class Mint:
    """A process that has imported everything already, and makes a fresh process for every run: kills become cheap."""

    def __init__(self, folder: Path, *, nap: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            cwd=folder,
            env={**os.environ, "NAP": str(nap), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Mint:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def begin(self, *arguments: str) -> int:
        """Starts a command; returns its process id."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def running(self) -> bool:
        return not select.select([self.process.stdout], [], [], 0)[0]

    def ended(self) -> int:
        """Waits for its end; returns the status as ``os.waitpid`` does."""
        assert self.process.stdout
        return int(self.process.stdout.readline())


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again(kills: int, workshop: Path, cli, monkeypatch, record_property) -> None:
    draw = random.Random(0)
    run, whole = workshop / f"killed_{kills}_times", count(workshop / "whole" / store.RECORDS)
    lost: list[int] = []
    with Mint(workshop, nap=0.006) as mint:
        while len(lost) < kills:
            before = count(run / store.RECORDS)
            child = mint.begin(*REQUEST, run.name, "--quiet")
            # A kill comes some records later, and a moment; one in seven comes while the run starts.
            more = draw.randint(1, whole // kills) if draw.random() > 1 / 7 else 0
            while mint.running() and count(run / store.RECORDS) < before + more:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1) if more else draw.uniform(0, 0.5))
            assert mint.running(), f"it ended before it was killed {kills} times: make it slower"
            os.kill(child, signal.SIGKILL)
            assert mint.ended() == signal.SIGKILL
            lost.append(count(run / store.RECORDS) - before)
    hit = Counter("in the middle" if more else "before a record" for more in lost)
    assert hit["in the middle"] >= 0.6 * kills, hit
    assert not (run / store.SUMMARY).exists()
    record_property("kills", f"{dict(hit)}; of {whole} records the sessions added {lost}")
    resumed(workshop, run.name, cli, monkeypatch)
    same(run, workshop / "whole")
    verified = cli("verify", run.name, "--model", "slow_net:net")
    assert verified.code == 0, verified.err
    points = len(load_file(run / store.FINAL_POINTS)["ids"])
    assert f"{points} of {points} adversarial images are upheld" in verified.out


def test_a_torn_last_line(workshop: Path, cli, monkeypatch) -> None:
    """The file ends after any byte of its last line: that record is lost, nothing else, and only it is done again."""
    whole = (workshop / "whole" / store.RECORDS).read_bytes().splitlines(keepends=True)
    points = raw_points(workshop / "whole")
    keep = len(whole) * 9 // 10
    head, last = b"".join(whole[: keep - 1]), whole[keep - 1]
    info = store.read_info(workshop / "whole")
    folder = workshop / "torn"
    for cut in range(len(last) + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(workshop / "whole" / store.RUN, folder)
        (folder / store.RECORDS).write_bytes(head + last[:cut])
        (folder / store.POINTS).write_bytes(points)
        opened = store.Store(folder, info)
        opened.close()
        kept = (folder / store.RECORDS).read_bytes()
        assert kept == (head + last if cut == len(last) else head)
        assert (folder / store.POINTS).stat().st_size == _points_in(kept) * store.point_bytes(info)
    for cut in (len(last) // 2, len(last) - 1):
        (folder / store.RECORDS).write_bytes(head + last[:cut])
        (folder / store.POINTS).write_bytes(points)
        (folder / store.SUMMARY).unlink(missing_ok=True)
        resumed(workshop, "torn", cli, monkeypatch)
        same(folder, workshop / "whole")


def raw_points(run: Path) -> bytes:
    """``points.raw`` as it was before the run was finished: the points in the order of their numbers."""
    stored = load_file(run / store.FINAL_POINTS)
    at = {line["id"]: line["point"] for line in lines(run) if line["final"] and "point" in line}
    count = 1 + max(line.get("point", -1) for line in lines(run))
    raw = np.zeros((count, *stored["points"].shape[1:]))
    for sample, point in zip(stored["ids"].tolist(), stored["points"]):
        raw[at[sample]] = point
    return raw.tobytes()


def _points_in(records: bytes) -> int:
    return 1 + max((json.loads(line).get("point", -1) for line in records.splitlines()), default=-1)


def test_torn_points(workshop: Path, cli, monkeypatch) -> None:
    """A point is written before its record: half a point, or one too many, is what a kill leaves."""
    whole = (workshop / "whole" / store.RECORDS).read_bytes().splitlines(keepends=True)
    info, points = store.read_info(workshop / "whole"), raw_points(workshop / "whole")
    folder, item = workshop / "half", store.point_bytes(info)
    count = max(json.loads(line).get("point", -1) for line in whole)  # all points but the last
    kept = next(place for place, line in enumerate(whole) if json.loads(line).get("point") == count)
    for more in (0, item // 2, item):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(workshop / "whole" / store.RUN, folder)
        (folder / store.RECORDS).write_bytes(b"".join(whole[:kept]))
        (folder / store.POINTS).write_bytes(points[: count * item + more])
        resumed(workshop, "half", cli, monkeypatch)
        same(folder, workshop / "whole")
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.copy(workshop / "whole" / store.RUN, folder)
    (folder / store.RECORDS).write_bytes(b"".join(whole[:kept]))
    (folder / store.POINTS).write_bytes(points[: count * item - 1])  # no kill does that
    ran = cli(*REQUEST, "half", "--quiet")
    assert ran.code == 2 and "shorter than its records say" in ran.err and "hint:" in ran.err


@pytest.mark.parametrize("left", ["nothing", "temporary", "empty records", "no records"])
def test_killed_while_the_folder_is_made(left: str, workshop: Path) -> None:
    folder = workshop / f"new {left}"
    folder.mkdir()
    if left == "temporary":
        (folder / f".{store.RUN}.123.tmp").write_text('{"schema')
    elif left == "empty records":
        (folder / store.RECORDS).touch()
    elif left == "no records":
        shutil.copy(workshop / "whole" / store.RUN, folder)
        (folder / store.SESSIONS).write_text('{"started": 1')
    info = store.read_info(workshop / "whole")
    store.Store(folder, info).close()
    assert store.read_info(folder) == info and not (folder / store.RECORDS).read_bytes()


@pytest.mark.parametrize("name", [store.FINAL_POINTS, store.GALLERY, store.SUMMARY, "report.html"])
def test_killed_while_it_concludes(name: str, workshop: Path, cli, monkeypatch) -> None:
    """Each file of the end is written whole; without it the same command writes it."""
    order = [store.FINAL_POINTS, store.GALLERY, store.SUMMARY, "report.html"]
    folder = workshop / f"without {name}"
    shutil.copytree(workshop / "whole", folder)
    for missing in order[order.index(name) :]:
        (folder / missing).unlink()
    if name != "report.html":
        (folder / store.POINTS).write_bytes(raw_points(workshop / "whole"))
    before = (folder / store.RECORDS).read_bytes()
    resumed(workshop, folder.name, cli, monkeypatch)
    assert (folder / store.RECORDS).read_bytes() == before and (folder / "report.html").exists()
    same(folder, workshop / "whole")


def test_ctrl_c(workshop: Path, cli, monkeypatch) -> None:
    run = workshop / "stopped"
    process = start(workshop, "stopped", nap=0.01)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / store.RECORDS).exists() and len(lines_so_far(run)) > 40):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 4, told
    assert "run the same command again" in told and "Traceback" not in told
    assert not (run / store.SUMMARY).exists()
    resumed(workshop, "stopped", cli, monkeypatch)
    same(run, workshop / "whole")


def lines_so_far(run: Path) -> list[bytes]:
    return (run / store.RECORDS).read_bytes().splitlines()
