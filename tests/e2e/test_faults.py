"""What goes wrong on a good day: the run names it, keeps what is finished, and the same command does the rest."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_resume import lines, same
from test_shards import Launcher

import holdfast
from holdfast.audit.session import Session
from holdfast.cli.app import run
from holdfast.data.source import unit_images
from holdfast.records import store

NET = '''
import os, signal
import torch
from torch import nn

class Frail(nn.Module):
    """A float64 net that takes image by image, and one of them not as it should."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(1024, 16, generator=generator, dtype=torch.float64) / 32)
        self.second = nn.Parameter(torch.randn(16, 4, generator=generator, dtype=torch.float64))
        self.register_buffer("odd", torch.load("odd.pt"))

    def forward(self, x):
        return torch.stack([self.one(image) for image in x])

    def one(self, image):
        fault = os.environ.get("FAULT", "")
        logits = ((image.flatten() - 0.3) @ self.first).tanh() @ self.second
        if not fault or not (fault == "all" or torch.equal(image, self.odd)):
            return logits
        if fault == "raise":
            raise ValueError("an odd image")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return logits * torch.nan

def net():
    return Frail()
'''
ODD = 7
COUNT = 14
BASE = ["audit", "--model", "frail_net:net", "--plan", "quick", "--eps", "0.02", "--slots", "4", "--quiet", "--data"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, digits) -> Path:
    """A folder with the net, digits labelled by what it says to most of them, in one file and in many; and a run of each."""
    import torch

    folder = tmp_path_factory.mktemp("faults")
    images = digits[0][:COUNT]
    (folder / "frail_net.py").write_text(NET)
    torch.save(torch.from_numpy(unit_images(images[ODD])).double(), folder / "odd.pt")
    here = Path.cwd()
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        import frail_net

        labels = frail_net.net()(torch.from_numpy(images / 255.0)).argmax(1).numpy()
        labels[3] = (labels[3] + 1) % 4
        np.savez("data.npz", images=images, labels=labels, class_names=list("0123"))
        for place, (image, label) in enumerate(zip(images, labels)):
            (folder / "files" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(folder / "files" / str(label) / f"{place:02}.png")
        assert run([*BASE, "data.npz", "--out", "whole"]) == 0
        assert run([*BASE, "files", "--out", "whole of files"]) == 0
    finally:
        sys.path.remove(str(folder))
        os.chdir(here)
    return folder


@pytest.fixture(autouse=True)
def inside(workshop: Path, monkeypatch) -> None:
    monkeypatch.chdir(workshop)


def summary(run: str) -> dict:
    return json.loads(Path(run, store.SUMMARY).read_text())


def finished(out: str, cli, *, but: tuple[str, ...] = ()) -> None:
    """The same command once more ends well, and as if nothing had been."""
    ran = cli(*BASE, "data.npz", "--out", out)
    assert ran.code == 0, ran.err
    same(Path(out), Path("whole"), but=but)
    assert cli("verify", out, "--model", "frail_net:net").code == 0


@pytest.mark.parametrize("fault", ["raise", "NaN"])
def test_a_model_that_fails_on_one_image(fault: str, cli, monkeypatch) -> None:
    said = "ValueError: an odd image" if fault == "raise" else "logits are not finite"
    monkeypatch.setenv("FAULT", fault)
    ran = cli(*BASE, "data.npz", "--out", fault)
    assert ran.code == 4 and "Traceback" not in ran.err
    assert "samples failed" in ran.out and f"sample {ODD} (clean: " in " ".join(ran.out.split())
    found, whole = summary(fault), summary("whole")
    (failed,) = found["failed"]
    assert (failed["id"], failed["stage"], failed["eps"]) == (ODD, "clean", 0.0) and said in failed["happened"]
    assert found["robust_accuracy"]["n"] == COUNT
    others = {(line["stage"], line["id"]) for line in lines(Path("whole")) if line["final"] and line["id"] != ODD}
    assert {(line["stage"], line["id"]) for line in lines(Path(fault)) if line["final"]} == others
    stood = not any(line["fooled"] for line in lines(Path("whole")) if line["id"] == ODD and line["final"])
    assert round(COUNT * (whole["robust_accuracy"]["value"] - found["robust_accuracy"]["value"])) == stood
    page = Path(fault, store.REPORT).read_text()
    assert "1 sample that failed" in page and said in page.replace("&#39;", "'")
    assert cli("verify", fault, "--model", "frail_net:net").code == 0
    assert cli(*BASE, "data.npz", "--out", fault).code == 4  # and again
    monkeypatch.delenv("FAULT")
    finished(fault, cli, but=("checks",))  # those were made before the first session, on the other images


def test_in_python(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setenv("FAULT", "raise")
    found = holdfast.audit("frail_net:net", "data.npz", threat=holdfast.Linf(0.02), plan="quick", slots=4)
    assert [each.id for each in found.summary.failed] == [ODD] and "samples failed" in {
        each.check for each in found.warnings
    }
    assert not found.correct[ODD] and not found.robust[ODD] and int(found.labels[ODD]) >= 0
    assert int(found.robust.sum()) == round(COUNT * found.robust_accuracy)


@pytest.mark.parametrize("how", ["gone", pytest.param("torn", marks=pytest.mark.slow)])
def test_an_image_that_cannot_be_read(how: str, cli, monkeypatch) -> None:
    """Between the listing and the reading."""
    shutil.copytree("files", how)
    file = sorted(Path(how).glob("*/*.png"))[ODD]
    kept, begin = file.read_bytes(), Session.run

    def begin_without(session: Session) -> None:
        file.unlink()
        if how == "torn":
            file.write_bytes(kept[: len(kept) // 2])
        begin(session)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", begin_without)
        ran = cli(*BASE, how, "--out", f"without {how}")
    assert ran.code == 4 and "Traceback" not in ran.err, ran.err
    (failed,) = summary(f"without {how}")["failed"]
    assert (failed["id"], failed["stage"]) == (ODD, "clean") and "label" not in {k for k, v in failed.items() if v}
    assert failed["happened"].startswith("BadFile: ") and file.name in failed["happened"]
    assert file.name in " ".join(ran.out.split())
    file.write_bytes(kept)
    ran = cli(*BASE, how, "--out", f"without {how}")
    assert ran.code == 0, ran.err
    one, other = (
        {(r["stage"], r["id"]): r["fooled"] for r in lines(Path(run)) if r["final"]}
        for run in (f"without {how}", "whole of files")
    )
    assert one == other and not summary(f"without {how}")["failed"]


def test_an_image_that_was_never_readable(cli) -> None:
    """The checks before the run do without it, too."""
    shutil.copytree("files", "damaged")
    file = sorted(Path("damaged").glob("*/*.png"))[ODD]
    file.write_bytes(file.read_bytes()[:-40])
    ran = cli(*BASE, "damaged", "--out", "of the damaged")
    assert ran.code == 4 and [each["id"] for each in summary("of the damaged")["failed"]] == [ODD], ran.err


def test_a_model_that_fails_on_all(cli, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "all")
    ran = cli(*BASE, "data.npz", "--out", "broken")
    assert ran.code == 2 and "finite" in ran.err and not Path("broken").exists()


@pytest.mark.parametrize("room", [pytest.param(2000, marks=pytest.mark.slow), 9000])
def test_a_disk_that_is_full(room: int, cli) -> None:
    """The system refuses to write more than so many bytes to a file."""
    out = f"room {room}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        ran = cli(*BASE, "data.npz", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ran.code == 2 and "no space left" in ran.err and "it resumes" in ran.err
    kept = Path(out, store.RECORDS).read_bytes()
    assert not Path(out, store.SUMMARY).exists()
    finished(out, cli)
    whole_lines = kept[: kept.rfind(b"\n") + 1]
    assert Path(out, store.RECORDS).read_bytes().startswith(whole_lines)


def test_a_torn_record_of_an_incomplete_run(cli, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "raise")
    assert cli(*BASE, "data.npz", "--out", "torn run").code == 4
    monkeypatch.delenv("FAULT")
    records = Path("torn run", store.RECORDS)
    kept = records.read_bytes()
    records.write_bytes(kept[:-20])
    finished("torn run", cli, but=("checks",))
    assert records.read_bytes().startswith(kept[: kept.rfind(b"\n", 0, -20) + 1])


def test_a_damaged_point_is_found_and_named(cli) -> None:
    shutil.copytree("whole", "changed")
    path = Path("changed", store.FINAL_POINTS)
    points = load_file(path)
    sample = int(points["ids"][2])
    points["points"][2] = 1 - points["points"][2]
    save_file(points, path)
    ran = cli("verify", "changed", "--model", "frail_net:net")
    assert ran.code == 3 and f"{sample}" in ran.out and "1 of" in ran.err


def test_a_model_that_takes_the_process_with_it(cli, monkeypatch) -> None:
    begin = Session.run

    def begin_to_die(session: Session) -> None:
        os.environ["FAULT"] = "kill"  # in the child alone
        begin(session)

    child = os.fork()
    if not child:
        try:
            sys.stdout = sys.stderr = Path("told").open("w")  # noqa: SIM115 - until the end
            monkeypatch.setattr(Session, "run", begin_to_die)
            run([*BASE, "data.npz", "--out", "killed"])
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, Path("told").read_text()
    assert [line["id"] for line in lines(Path("killed"))] == [0, 1, 2, 3]
    finished("killed", cli)


@pytest.mark.slow
def test_by_several_processes(workshop: Path, monkeypatch) -> None:
    """Whoever meets it, all leave it out, and the first one names it."""
    command = [*BASE[: BASE.index("--slots")], "--slots", "2", "--data", "data.npz", "--out", "by two"]
    monkeypatch.setenv("FAULT", "raise")
    launcher = Launcher(workshop)
    codes = launcher.ran(2, command)
    launcher.process.communicate()
    assert codes == [4, 0], launcher.told(2)
    assert [each["id"] for each in summary("by two")["failed"]] == [ODD]
    monkeypatch.delenv("FAULT")
    launcher = Launcher(workshop)
    assert launcher.ran(3, command) == [0, 0, 0], launcher.told(3)
    launcher.process.communicate()
    same(Path("by two"), Path("whole"), but=("checks",))
