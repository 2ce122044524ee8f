"""What a user can get wrong on the command line: exit code 2, an error that names it, a hint, and nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from holdfast.cli.app import run
from holdfast.nets.small_cnn import SmallCNN
from holdfast.records import lines, store

MODELS = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, kind, classes=10):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(1024, classes)

    def forward(self, x):
        z = self.linear(x.flatten(1))
        if self.kind == "torn":
            return torch.where(x.mean((1, 2, 3))[:, None] < 0.45, z / 0, z) * 0
        if self.kind == "constant":
            return torch.zeros_like(z) + torch.arange(10.0)
        if self.kind == "detached":
            return z.detach()
        if self.kind == "softmax":
            return (50 * z).softmax(1)
        if self.kind == "pair":
            return z, x
        if self.kind == "one logit":
            return z[:, :1]
        if self.kind == "raises":
            raise ZeroDivisionError("no luck today")
        if self.kind == "late" and not self.training and len(x) < 3 and torch.is_grad_enabled():
            raise ZeroDivisionError("not in this batch")
        return z

def net(kind="plain", classes=10):
    return Net(kind, classes)

def raising():
    raise RuntimeError("the factory is on fire")

def no_module():
    return {"weights": 1}

def exiting():
    sys.exit(0)

not_callable = 3
"""

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 1, 32, 32), dtype=np.uint8)
LABELS = np.arange(12) % 10
NET = "net:small_cnn"


class Room:
    """An empty folder to be wrong in, and the weights of a net that is right."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder = folder
        self.weights = weights

    def npz(self, images: object = PIXELS, labels: object = LABELS, name: str = "x.npz") -> str:
        np.savez(self.folder / name, images=images, labels=labels)
        return name

    def cut(self, name: str, share: float = 0.5) -> str:
        """The file, torn off."""
        path = self.folder / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return name

    def text(self, name: str, content: str = "these are no bytes of that kind\n" * 40) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return name

    def pictures(self, name: str = "pictures") -> str:
        for number, pixels in enumerate(PIXELS):
            path = self.folder / name / str(number % 3) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0]).save(path)
        return name

    def parquet(self, name: str = "x.parquet") -> str:
        cells = []
        self.pictures("made")
        for number in range(12):
            cells.append({"bytes": (self.folder / "made" / str(number % 3) / f"{number}.png").read_bytes()})
        shutil.rmtree(self.folder / "made")
        pq.write_table(pa.table({"image": pa.array(cells), "label": pa.array(LABELS)}), self.folder / name)
        return name

    def idx(self) -> str:
        folder = self.folder / "idx"
        folder.mkdir()
        images = struct.pack(">IIII", 2051, 12, 32, 32) + PIXELS.tobytes()
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        labels = struct.pack(">II", 2049, 12) + LABELS.astype(np.uint8).tobytes()
        (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        return "idx"

    def saved(self, name: str = "w.safetensors", **options: int) -> str:
        save_file(SmallCNN(width=4, hidden=32, **options).state_dict(), self.folder / name)
        return name

    def tree(self) -> dict[str, bytes]:
        """Everything that lies here."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.folder.rglob("*"))
            if "__pycache__" not in path.parts
        }


@pytest.fixture
def room(tmp_path: Path, digits_net: Path, monkeypatch) -> Room:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_models.py").write_text(MODELS)
    return Room(tmp_path, digits_net)


class Trap:
    """A pickle that would leave a trace if it were read."""

    def __reduce__(self):
        return (os.system, ("touch trapped",))


def trap(room: Room) -> str:
    (room.folder / "w.pt").write_bytes(pickle.dumps({"weights": Trap()}))
    return "w.pt"


def trap_in_zip(room: Room) -> str:
    torch.save({"weights": Trap()}, room.folder / "w.pt")
    return "w.pt"


def zipped_text(room: Room) -> str:
    with zipfile.ZipFile(room.folder / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return "w.pt"


def without(room: Room, name: str) -> str:
    state = load_file(room.weights)
    save_file({key: value for key, value in state.items() if key != name}, room.folder / "w.safetensors")
    return "w.safetensors"


def natural(*arguments: str, says: tuple[str, ...]):
    """An audit over corruptions or perturbations of a net that is right."""

    def case(room: Room):
        net = (
            "--model",
            NET,
            "--weights",
            room.weights,
            "--option",
            "width=4",
            "--option",
            "hidden=32",
            "--limit",
            "8",
        )
        return ("audit", *net, *arguments, "--out", "run"), says

    return case


def toml(room: Room, text: str) -> str:
    return room.text("audit.toml", f'model = "net:small_cnn"\n{text}\n')


def broken_pictures(room: Room) -> str:
    for path in sorted((room.folder / room.pictures()).glob("*/*.png")):
        room.cut(str(path.relative_to(room.folder)))
    return "pictures"


def broken_idx(room: Room) -> str:
    room.idx()
    room.cut("idx/t10k-images-idx3-ubyte.gz")
    return "idx"


def unequal_pictures(room: Room) -> str:
    room.pictures()
    Image.new("L", (16, 16)).save(room.folder / "pictures" / "2" / "2.png")
    return "pictures"


def good(room: Room, **more: object) -> tuple[object, ...]:
    """The arguments of an audit that would go well, some of them replaced or (None) left out."""
    given = {"model": NET, "weights": room.weights, "eps": "0.1", "plan": "sweep", "out": "run", **more}
    arguments: list[object] = ["audit", "--quiet"]
    for key, value in given.items():
        arguments += [] if value is None else [f"--{key}={value}"]
    if given["model"] == NET:
        arguments += ["--option", "width=4", "--option", "hidden=32"]
    return tuple(arguments)


def data(make: Callable[[Room], str], *words: str, **more: object):
    return lambda room: (good(room, data=make(room), **more), words)


def model(name: str, *words: str):
    return lambda room: (good(room, model=name, weights=None), words)


def factory(kind: str, *words: str):
    return lambda room: ((*good(room, model="bad_models:net", weights=None), "--option", f"kind={kind}"), words)


def weights(make: Callable[[Room], str], *words: str):
    return lambda room: (good(room, weights=make(room)), words)


def given(*words: str, **more: object):
    return lambda room: (good(room, **more), words)


def options(*arguments: str, says: tuple[str, ...]):
    return lambda room: ((*good(room), *arguments), says)


def configured(text: str, *words: str):
    return lambda room: (("audit", "--config", toml(room, text), "--out", "run", "--quiet"), words)


def plainly(*arguments: str, says: tuple[str, ...]):
    return lambda room: (arguments, says)


nan = PIXELS / 255
nan[3, 0, 5, 5] = np.nan

CASES: dict[str, Callable] = {
    # Images and labels
    "data: missing": data(lambda room: "nowhere.npz", "nowhere.npz", "does not exist"),
    "data: missing folder": data(lambda room: "no/where", "no/where", "does not exist"),
    "data: unknown name": data(lambda room: "digit", "digit", "did you mean digits"),
    "data: unknown split": given("tset", "did you mean test", split="tset"),
    "data: split of a file": data(lambda room: room.npz(), "val", "split", split="val"),
    "data: truncated npz": data(lambda room: room.cut(room.npz()), "x.npz", "truncated"),
    "data: truncated parquet": data(lambda room: room.cut(room.parquet()), "x.parquet", "truncated"),
    "data: truncated pngs": data(broken_pictures, "0.png", "truncated"),
    "data: truncated idx.gz": data(broken_idx, "t10k-images-idx3-ubyte.gz", "truncated"),
    "data: text as npz": data(lambda room: room.text("x.npz"), "x.npz", "looked for"),
    "data: text as parquet": data(lambda room: room.text("x.parquet"), "x.parquet", "looked for"),
    "data: text as png": data(lambda room: room.text("p/a/1.png").partition("/")[0], "1.png"),
    "data: empty file": data(lambda room: room.text("x.npz", ""), "x.npz", "empty file"),
    "data: empty folder": data(lambda room: str((room.folder / "none").mkdir() or "none"), "none", "an empty folder"),
    "data: pickled arrays": data(lambda room: room.npz(np.array([{}], dtype=object)), "x.npz", "pickled"),
    "data: no images": data(lambda room: room.npz(PIXELS[:0], LABELS[:0]), "empty"),
    "data: NaN": data(lambda room: room.npz(nan), "sample 3", "nan", "leave that sample out"),
    "data: floats in 0..255": data(lambda room: room.npz(PIXELS.astype(np.float32)), "255", "Divide them by 255"),
    "data: normalised floats": data(lambda room: room.npz(PIXELS / 127.5 - 1), "-1", "normalised"),
    "data: int64 pixels": data(lambda room: room.npz(PIXELS.astype(np.int64)), "int64", "astype(np.uint8)"),
    "data: boolean pixels": data(lambda room: room.npz(PIXELS > 9), "boolean", "* 255"),
    "data: pictures of two sizes": data(unequal_pictures, "2.png", "(16, 16)", "size"),
    "data: too few labels": data(lambda room: room.npz(labels=LABELS[:9]), "12 images and 9 labels"),
    "data: negative label": data(lambda room: room.npz(labels=LABELS - 1), "sample 0", "-1"),
    "data: label out of range": data(lambda room: room.npz(labels=LABELS + 5), "14", "10 logits"),
    "data: one-hot labels": data(lambda room: room.npz(labels=np.eye(10)[LABELS]), "one-hot", "argmax"),
    "data: float labels": data(lambda room: room.npz(labels=LABELS / 1), "float64", "integers"),
    # The model
    "model: none": plainly("audit", "--eps", "0.1", "--out", "run", says=("no model", "--model")),
    "model: no form": model("small_cnn", "small_cnn", "write it as net:small_cnn"),
    "model: unknown net": model("net:smal_cnn", "smal_cnn", "did you mean small_cnn"),
    "model: no module": model("bad_modles:net", "bad_modles", "cannot be imported"),
    "model: no factory": model("bad_models:nett", "nett", "did you mean net"),
    "model: not callable": model("bad_models:not_callable", "not_callable"),
    "model: factory raises": model("bad_models:raising", "raising", "the factory is on fire"),
    "model: factory exits": model("bad_models:exiting", "sys.exit(0)"),
    "model: factory of no module": model("bad_models:no_module", "returns a dict", "nn.Module"),
    "model: unknown option": options("--option", "witdh=3", says=("witdh", "did you mean width")),
    "model: option of a wrong type": options("--option", "width=wide", says=("wide", "check its options")),
    "model: option without a value": options("--option", "width", says=("'width'", "key=value")),
    "model: grey images, colour net": lambda room: (
        (*good(room, weights=room.saved(channels=3)), "--option", "channels=3"),
        ("3 (colour)", "1 (grey)"),
    ),
    "model: colour images, grey net": lambda room: (
        (*good(room, data=room.npz(np.repeat(PIXELS, 3, 1))), "--option", "channels=1"),
        ("1 (grey)", "3 (colour)"),
    ),
    "model: size of the images": lambda room: (
        (*good(room, data=room.npz(PIXELS[:, :, :28, :28])), "--option", "size=32"),
        ("(1, 32, 32)", "(1, 28, 28)", "--size 32x32"),
    ),
    "model: too few classes": lambda room: (
        (*good(room, model="bad_models:net", weights=None), "--option", "classes=5"),
        ("5 logits", "class"),
    ),
    "model: NaN": factory("torn", "finite"),
    "model: constant": factory("constant", "constant output", "weights were loaded"),
    "model: returns a pair": factory("pair", "tuple", "logits"),
    "model: one logit": factory("one logit", "(2, 1)", "one logit per class"),
    "model: forward raises": factory("raises", "ZeroDivisionError: no luck today", "(N,C,H,W)"),
    "model: no gradient": factory("detached", "gradient"),
    "device: absent": given("cuda:7", "give cpu", device="cuda:7"),
    "device: unknown": given("gpu", "give cpu", device="gpu"),
    "normalise: unknown": given("cifar", "did you mean cifar10", normalise="cifar"),
    "normalise: broken": given("0.5/", normalise="0.5/"),
    "normalise: channels": given("3 channels", "1", normalise="imagenet"),
    # Its weights
    "weights: missing": weights(lambda room: "no.safetensors", "no.safetensors", "check the path"),
    "weights: truncated safetensors": weights(lambda room: room.cut(room.saved()), "w.safetensors", "whole"),
    "weights: truncated pt": weights(
        lambda room: torch.save(SmallCNN().state_dict(), room.folder / "w.pt") or room.cut("w.pt"), "w.pt"
    ),
    "weights: text as safetensors": weights(lambda room: room.text("w.safetensors"), "w.safetensors", "text"),
    "weights: text as pt": weights(lambda room: room.text("w.pt"), "w.pt", "text"),
    "weights: unknown ending": weights(lambda room: room.text("w.h5"), "w.h5", ".safetensors"),
    "weights: pickle that runs code": weights(trap, "w.pt", "run code"),
    "weights: archive that runs code": weights(trap_in_zip, "w.pt", "run code"),
    "weights: zip of text": weights(zipped_text, "w.pt", "is refused"),
    "weights: missing key": weights(lambda room: without(room, "head.1.bias"), "missing: head.1.bias"),
    "weights: another net": weights(lambda room: room.saved(size=16), "(32, 128)", "options"),
    # Radii
    "eps: none": plainly("audit", "--model", NET, "--out", "run", says=("no radius", "--eps 8/255")),
    "eps: 8": given("8", "for 8 pixel levels write", eps="8"),
    "eps: negative": given("-0.1", "negative", eps="-0.1"),
    "eps: a word": given("'abc'", "8/255", eps="abc"),
    "eps: infinite": given("1e999", "finite", eps="1e999"),
    "eps: by zero": given("8/0", eps="8/0"),
    "eps: another unit": given("2px", "pixel values", eps="2px"),
    "eps: fraction of pixels": given("2.5", "whole", eps="2.5", threat="l0"),
    "curve: a word": options("--curve", "0.1", "x", says=("curve", "'x'")),
    # Names and numbers
    "threat: unknown": given("linv", "did you mean linf", threat="linv"),
    "threat: the attack cannot": given("quick is not made for", "l0", "sweep", threat="l0", eps=3, plan="quick"),
    "plan: unknown": given("quik", "did you mean quick", plan="quik"),
    "limit: 0": given("limit is 0", "at least 1", limit=0),
    "limit: a word": given("--limit", "few", limit="few"),
    "slots: 0": given("slots is 0", "at least 1", slots=0),
    "seed: negative": given("seed is -1", "seed=0", seed=-1),
    "option: unknown": options("--epsilon", "1", says=("--epsilon", "Did you mean --eps")),
    "option: without a value": options("--threat", says=("--threat", "requires an argument")),
    "argument: too many": options("digits", says=("digits", "audit --help")),
    "command: unknown": plainly("audti", says=("audti", 'Did you mean "audit"')),
    "list: unknown kind": plainly("list", "atack", says=("atack", "did you mean attack")),
    # Corruptions and perturbations
    "corruptions: unknown": natural("--corruptions", "fogg", says=("unknown corruption 'fogg'", "did you mean fog")),
    "corruptions: severity 6": natural(
        "--corruptions", "fog", "--severities", "6", says=("severity is 6", "1, 2, 3, 4, 5")
    ),
    "corruptions: wrong variant": natural(
        "--corruptions", "fog", "--variant", "224", says=("variant '224'", "32 x 32")
    ),
    "corruptions: no frost": natural(
        "--corruptions", "frost", "--frost-dir", ".", says=("frost1.png", "procedural", "not the published mCE")
    ),
    "corruptions: no released files": natural("--released", ".", says=("neither labels.npy nor folders",)),
    "corruptions: JPEG 0": natural("--corruptions", "fog", "--jpeg", "0", says=("jpeg is 0", "85")),
    "corruptions: no baseline": natural(
        "--corruptions", "fog", "--baseline", "no", says=("no/corruptions", "to its end")
    ),
    "corruptions: unknown adaptation": natural(
        "--corruptions", "fog", "--adapt", "tend", says=("unknown defence 'tend'", "did you mean tent")
    ),
    "corruptions: nothing to adapt": natural("--corruptions", "fog", "--adapt", "tent", says=("batch norm",)),
    "perturbations: unknown": natural(
        "--perturbations", "tild", says=("unknown perturbation 'tild'", "did you mean tilt")
    ),
    "perturbations: difficulty 4": natural("--perturbations", "tilt", "--difficulty", "4", says=("difficulty is 4",)),
    "corruptions: an option without them": options("--jpeg", "85", says=("jpeg is given", "no corruptions")),
    "corruptions: a bad baseline beside eps": natural(
        "--eps", "0.1", "--corruptions", "fog", "--baseline", "no", says=("no/corruptions", "to its end")
    ),
    "corrupt: unknown layout": plainly(
        "corrupt", "--layout", "tar", "--out", "set", says=("layout is 'tar'", "arrays")
    ),
    "corrupt: some severities": plainly(
        "corrupt", "--severities", "2", "--corruptions", "fog", "--out", "set", says=("arrays hold all five", "folders")
    ),
    "corrupt: a file": lambda room: (("corrupt", "--out", room.text("a.txt")), ("a.txt", "folder")),
    # The configuration file
    "toml: missing": plainly("audit", "--config", "no.toml", says=("no.toml", "does not exist")),
    "toml: broken": configured("eps = = 1", "audit.toml", "line 2"),
    "toml: a folder": plainly("audit", "--config", ".", says=("cannot be read",)),
    "toml: unknown key": configured('epss = "8/255"', "epss", "audit.toml", "did you mean eps"),
    "toml: wrong type": configured('eps = "0.1"\nlimit = "many"', "limit", "many"),
    "toml: table where text is": configured("[eps]\nvalue = 1", "eps", "string"),
    "toml: eps 8": configured("eps = 8", "8", "for 8 pixel levels write"),
    "toml: another command's": configured("runs = 3", "runs"),
    # Folders
    "out: a file": lambda room: (good(room, out=room.text("a.txt")), ("a.txt", "folder")),
    "out: below a file": lambda room: (good(room, out=f"{room.text('a.txt')}/run"), ("a.txt/run", "folder")),
    "out: not empty and no run": lambda room: (
        good(room, out=room.text("mine/notes.txt").partition("/")[0]),
        ("mine", "holds no run", "--out"),
    ),
    "out: in /proc": given("/proc/holdfast/run", "cannot be written", out="/proc/holdfast/run"),
    "out: a device": given("/dev/full", "--out", out="/dev/full"),
    # The other commands
    "verify: no folder": plainly("verify", "no/run", says=("no/run/run.json", "does not exist", "--out")),
    "verify: nothing": plainly("verify", says=("--run", "requires an argument")),
    "report: no folder": plainly("report", "no/run", says=("no/run", "holdfast audit")),
    "report: no run": lambda room: (("report", room.text("mine/x").partition("/")[0]), ("mine", "run.json")),
    "report: nothing": plainly("report", says=("no run", "folders")),
    "report: two without a page": plainly("report", "a", "b", says=("--out page.html",)),
    "doctor: no model": plainly("doctor", says=("no model", "--model")),
    "plan: no radius": plainly("plan", "--model", NET, says=("no radius", "--eps")),
    "plan: eps 8": plainly("plan", "--model", NET, "--eps", "8", says=("for 8 pixel levels write",)),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, room: Room, cli) -> None:
    arguments, words = CASES[case](room)
    before = room.tree()
    ran = cli(*arguments)
    told(ran, *words)
    assert room.tree() == before, "something was written"


def told(ran, *words: str, code: int = 2) -> None:
    assert ran.code == code, ran
    assert re.search(r"^error: \S", ran.err, re.M) and re.search(r"^hint:  \S", ran.err, re.M), ran.err
    assert "Traceback" not in ran.err and ran.out == ""
    for word in words:
        assert word in ran.err, f"{word!r} is not in: {ran.err}"


@pytest.mark.parametrize("case", ["weights: pickle that runs code", "option: unknown"])
def test_bad_input_in_a_process_of_its_own(case: str, room: Room, shell) -> None:
    arguments, words = CASES[case](room)
    before = room.tree()
    told(shell(*arguments, cwd=room.folder), *words)
    assert room.tree() == before


def test_probabilities_are_a_warning(room: Room, cli) -> None:
    arguments = good(room, model="bad_models:net", weights=None, limit=30)
    ran = cli(*arguments, "--option", "kind=softmax")
    assert (
        ran.code == 0
        and "probability" in json.loads((room.folder / "run" / "summary.json").read_text())["warnings"][0]["saw"]
    )
    assert "warning probabilities: every output row is a probability" in ran.out


@pytest.fixture(scope="session")
def finished_run(digits_net: Path, tmp_path_factory) -> Path:
    """A finished run of 40 digits."""
    folder = tmp_path_factory.mktemp("finished")
    room = Room(folder, digits_net)
    assert run([str(argument) for argument in good(room, limit=40, out=folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def finished(room: Room, finished_run: Path) -> Room:
    """A room with that run in ``run``."""
    shutil.copytree(finished_run, room.folder / "run")
    return room


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"plan": "quick"}, "plan"),
        ({"eps": "0.2"}, "eps"),
        ({"seed": 1}, "seed"),
        ({"limit": 39}, "data"),
        ({"threat": "l2"}, "threat"),
        ({"curve": 0.05}, "curve"),
        ({"weights": "other"}, "model"),
    ],
)
def test_a_folder_of_another_run(change: dict, word: str, finished: Room, cli) -> None:
    if "weights" in change:
        change = {"weights": finished.saved()}
    before = finished.tree()
    ran = cli(*good(finished, **{"limit": 40, **change}))
    told(ran, "run holds another run", f"its {word} is", "--out")
    assert finished.tree() == before


def test_a_folder_of_another_run_that_is_not_finished(finished: Room, cli) -> None:
    (finished.folder / "run" / "summary.json").unlink()
    before = finished.tree()
    told(cli(*good(finished, limit=40, eps="0.2")), "run holds another run")
    assert finished.tree() == before


def test_two_processes_on_one_folder(finished: Room, cli) -> None:
    (finished.folder / "run" / "summary.json").unlink()
    with (finished.folder / "run" / store.RECORDS).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = finished.tree()
        told(cli(*good(finished, limit=40)), "another process is writing to run", "wait")
        assert finished.tree() == before
    told(cli(*good(finished, limit=40)), "points.raw is shorter")  # a finished run has handed its points on


@pytest.mark.parametrize("command", ["audit", "verify", "report"])
@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_newer_schema(command: str, name: str, finished: Room, cli) -> None:
    path = finished.folder / "run" / name
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    before = finished.tree()
    ran = cli(*good(finished, limit=40)) if command == "audit" else cli(command, "run")
    told(ran, name, "newer holdfast (schema 2)", "upgrade")
    assert finished.tree() == before


@pytest.mark.parametrize("command", ["audit", "verify", "report"])
@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1}', "[]", "\x00\x01"])
def test_a_damaged_run(command: str, text: str, finished: Room, cli) -> None:
    (finished.folder / "run" / "run.json").write_text(text)
    before = finished.tree()
    ran = cli(*good(finished, limit=40)) if command == "audit" else cli(command, "run")
    told(ran, "run.json", "cannot be read")
    assert finished.tree() == before


@pytest.mark.parametrize("command", ["audit", "report"])
def test_a_damaged_record_in_the_middle(command: str, finished: Room, cli) -> None:
    path = finished.folder / "run" / store.RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:7], b"#" + lines[7][1:], *lines[8:]]))
    if command == "audit":
        (finished.folder / "run" / store.SUMMARY).unlink()
    before = finished.tree()
    ran = cli(*good(finished, limit=40)) if command == "audit" else cli(command, "run")
    told(ran, "line 8 of run/records.jsonl", "new")
    assert finished.tree() == before


def test_verify_of_something_else(finished: Room, cli) -> None:
    options = ("--option", "width=4", "--option", "hidden=32")
    told(
        cli("verify", "run", "--model", NET, "--weights", finished.saved(), *options),
        "the model is not the one",
        "give",
    )
    told(cli("verify", "run", "--data", finished.npz()), "the data is not the one", "limit")
    told(cli("verify", "run", "--seed", "1"), "the data is not the one", "seed")
    told(cli("verify", "run", "--model", "bad_models:net"), "the model is not the one")


def test_verify_does_not_run_code_that_a_folder_names(room: Room, cli) -> None:
    assert cli(*good(room, model="bad_models:net", weights=None, limit=12)).code == 0
    told(cli("verify", "run"), "bad_models:net", "--model")
    assert cli("verify", "run", "--model", "bad_models:net").code == 0


@pytest.mark.parametrize("command", ["verify", "report"])
def test_an_unfinished_run(command: str, finished: Room, cli) -> None:
    (finished.folder / "run" / store.SUMMARY).unlink()
    told(cli(command, "run"), "run/summary.json does not exist", "run the same audit again")


def test_verify_refutes_changed_points(finished: Room, cli) -> None:
    path = finished.folder / "run" / store.FINAL_POINTS
    points = load_file(path)
    points["points"][0] = 0.5
    points["points"][1, 0, 0, 0] = 1.5
    save_file(points, path)
    ran = cli("verify", "run")
    assert ran.code == 3 and "hint:" in ran.err and "2 of" in ran.err
    assert "outside [0, 1]" in ran.out and "is allowed" in ran.out
    path.write_bytes(path.read_bytes()[:-100])
    told(cli("verify", "run"), store.FINAL_POINTS, "cannot be read")


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_left_in_the_middle(room: Room, cli, monkeypatch) -> None:
    written = 0

    def write(file, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 60:
            file.write(data[: len(data) // 2])
            full()
        file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", write)
        patch.setattr(lines, "write", write)
        told(cli(*good(room, limit=40)), "no space left", "it resumes")
    assert not (room.folder / "run" / store.SUMMARY).exists()
    assert cli(*good(room, limit=40)).code == 0
    assert cli(*good(room, limit=40, out="whole")).code == 0
    assert points_of(room.folder / "run") == points_of(room.folder / "whole")


def test_no_space_left_in_the_middle_of_the_corruptions(room: Room, cli, monkeypatch) -> None:
    net = ("--model", NET, "--weights", room.weights, "--option", "width=4", "--option", "hidden=32", "--limit", 300)
    command = ("audit", *net, "--corruptions", "fog", "--severities", 1, 5, "--quiet")
    written = 0

    def write(file, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 4:
            file.write(data[: len(data) // 2])
            full()
        file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(lines, "write", write)
        told(cli(*command, "--out", "run"), "no space left", "it resumes")
    torn = room.folder / "run" / "corruptions"
    assert (torn / "outcomes.jsonl").read_bytes().count(b"\n") == 4 and not (torn / "summary.json").exists()
    assert cli(*command, "--out", "run").code == 0
    assert cli(*command, "--out", "whole").code == 0
    whole = room.folder / "whole" / "corruptions" / "outcomes.jsonl"
    assert sorted((torn / "outcomes.jsonl").read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())


def points_of(folder: Path) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in load_file(folder / store.FINAL_POINTS).items()}


def test_no_space_left_at_the_end(room: Room, cli, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        told(cli(*good(room, limit=40)), "no space left")
    assert list(room.tree()) == ["bad_models.py", "run", f"run/{store.RECORDS}"]
    assert cli(*good(room, limit=40)).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        before = room.tree()
        told(cli("report", "run", "--out", "page.html"), "no space left", "page.html")
        assert room.tree() == before


def test_a_device_is_not_replaced_by_a_page(finished: Room, cli) -> None:
    told(cli("report", "run", "--out", "/dev/null"), "/dev/null", "the path of a file")
    told(cli("report", "run", "--out", "run"), "run cannot be written", "the path of a file")
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_file_system_that_is_full(room: Room, cli) -> None:
    small = room.folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        told(cli(*good(room, out="small/run", eps="0.3")), "no space left", "small/run")
        lines = (small / "run" / store.RECORDS).read_bytes().splitlines()
        assert len(lines) > 30 and not (small / "run" / store.SUMMARY).exists()
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        assert cli(*good(room, out="small/run", eps="0.3")).code == 0
        assert (small / "run" / store.RECORDS).read_bytes().splitlines()[: len(lines) - 1] == lines[:-1]
        assert cli("verify", "small/run").code == 0
    finally:
        subprocess.run(["umount", small], check=True)
