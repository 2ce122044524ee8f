"""Every example of the documentation runs: a page is a story, whose lines and blocks run in order in one folder."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from holdfast.attacks.n_fgsm import NFGSM
from holdfast.data.load import load
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)

QUICK = (
    "docs/howto/extend.md",
    "docs/howto/photos.md",
    "docs/howto/reproduce.md",
    "docs/doctor.md",
)
"""The pages of the default suite; the others are slow tests."""

SHORTER = {
    "audit": ("--limit 20",),
    "certify": ("--limit 5", "--estimate 200", "--draws 4", "--steps 4", "--predict 100"),
    "detect": ("--limit 20", "--steps 4"),
    "experiment": ("--set images=200 --set steps=20 --set test_images=20",),
    "explain": ("--limit 8", "--known 200", "--probe gradients lipschitz"),
    "train": ("--limit 400", "--set epochs=1", "--no-audit"),
}
"""Command -> options that are added where a line does not say them. The pages of docs/howto run as they stand."""

NOT_RUN = {
    "README.md": {
        "make ": "makes an environment, or runs a suite",
        "python3 -m venv": "makes an environment",
        "pip ": "needs the network",
        "holdfast audit --model your_module": "needs the reader's project; one is made in tests/e2e/test_own_model.py",
        "holdfast compare": "needs two finished runs; the same in docs/howto/compare.md",
        "holdfast gate": "likewise; docs/howto/gate.md",
        "holdfast card": "likewise; docs/howto/publish.md",
    },
    "CONTRIBUTING.md": {"make ": "makes an environment, or runs a suite"},
    "docs/compare.md": {"def test_": "a test of the reader's own model; one that runs is in docs/howto/pytest.md"},
    "docs/defences.md": {
        "import holdfast\nfrom holdfast.data": "takes an hour; a smaller one is in docs/howto/defence.md",
        "holdfast audit --model net:small_cnn": "likewise",
    },
    "docs/experiments.md": {
        "holdfast experiment mixup_inference": "needs CIFAR-10 and half an hour",
        "holdfast experiment robust_overfitting": "needs CIFAR-10 and a GPU",
    },
    "docs/howto/pretrained.md": {
        "pip ": "needs the network",
        "holdfast audit --model timm:": "needs the network",
        "holdfast audit --model torchvision:": "needs the network",
    },
    "docs/models.md": {"holdfast audit --model net:preact_resnet18": "needs CIFAR-10"},
    "docs/scale.md": {
        "torchrun --nnodes": "needs two hosts",
        "holdfast audit --model net:preact_resnet18": "needs a GPU",
        "python benchmarks/accelerator.py": "needs a GPU",
    },
    "docs/scaling.md": {"python benchmarks/scaling.py": "measures the machine for minutes"},
    "docs/start.md": {
        "python3 -m venv": "makes an environment",
        ". .venv": "likewise",
        "pip ": "needs the network",
        "holdfast audit --model your_module": "needs the reader's project; one is made in tests/e2e/test_own_model.py",
    },
    "docs/training.md": {
        "holdfast train --recipe mnist": "needs MNIST",
        "holdfast train --recipe cifar": "needs CIFAR-10 and half an hour",
    },
}
"""Page -> how a shell line or a Python block begins that is not run -> why."""

OURS = """
import holdfast, torch
from holdfast.data.load import load
from holdfast.models.load import load as load_model

digits = load("digits", limit=2)
images, labels = digits.take(digits.ids)
x, y, ids = torch.from_numpy(images) / 255, torch.from_numpy(labels), torch.tensor([0, 1])
model = module = net = load_model("net:small_cnn", weights="runs/demo/robust.safetensors", shape=(1, 32, 32)).module
"""
"""What pages call the reader's own: a net and images."""

GIVEN = {
    "docs/attacks.md": OURS,
    "docs/defences.md": OURS + "denoise = decode = lambda x: x\ndiffuse = lambda x, key: x\n",
    "docs/explain.md": OURS,
    "docs/training.md": OURS
    + """
from holdfast import Linf
from holdfast.attacks import PGD
from holdfast.objectives.objective import Examples
images, labels, keys = x, y, ids
""",
}
"""Page -> Python that runs before its blocks."""

PROGRAMS = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}


def _steps(page: str) -> list[tuple[str, str]]:
    """A page's shell lines, Python blocks and shown outputs, in order."""
    steps = []
    for language, body in FENCE.findall(PAGES[page]):
        if language == "sh":
            steps += [("sh", line) for line in body.replace("\\\n", " ").splitlines() if line]
        elif language in ("python", "text"):
            steps.append((language, body))
    return steps


def _reason(page: str, step: str) -> str | None:
    """The entry of `NOT_RUN` for a step."""
    return next((begins for begins in NOT_RUN.get(page, {}) if step.startswith(begins)), None)


def _shape(text: str) -> str:
    """A text without its figures and line breaks, which depend on the machine and on the terminal's width."""
    plain = " ".join(re.sub(r"[−+-]?\d[\d.,]*(?:e-\d+)?", "0", text).split())
    return re.sub(r"(?:0 (?:h|min) )+0 s", "0 s", plain)


TOLD = [page for page in PAGES if any(language != "text" for language, _ in _steps(page))]
"""The pages that have something to run."""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take to be there: the nets of the demo, the examples, a folder of photos."""
    home = tmp_path_factory.mktemp("home")
    (home / "runs" / "demo").mkdir(parents=True)
    recipes = {
        "standard": Recipe(Standard(), Linf(0.1), epochs=4, lr=5e-3),
        "robust": Recipe(Adversarial(NFGSM()), Linf(0.1), epochs=5, lr=5e-3),
    }
    shutil.copytree(ROOT / "examples", home / "examples")
    shutil.copy(ROOT / "examples" / "own_model.py", home / "your_module.py")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, recipe in recipes.items():
            net = SmallCNN()
            fit(net, load("digits:train"), recipe)
            save_file(net.state_dict(), home / "runs" / "demo" / f"{name}.safetensors")
        own = runpy.run_path(str(home / "your_module.py"))["trained"](epochs=1).state_dict()
    save_file(own, home / "runs" / "own_model.safetensors")
    save_file(own, home / "w.safetensors")
    rng = np.random.default_rng(0)
    digits = load("digits", limit=40)
    for pixels, label in zip(*digits.take(digits.ids), strict=True):
        folder = home / "path" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(folder / f"{len(list(folder.iterdir()))}.png")
    for label in ("cat", "dog", "fox"):
        (home / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (*rng.integers(40, 90, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "photos" / label / f"{number}.png")
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli) -> Callable[[str, str], str]:
    """Runs a shell line of a page in a copy of `home`, to the exit code that its comment says, else 0; what it prints."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(page: str, line: str) -> str:
        program, *words = shlex.split(line, comments=True)
        if program == "holdfast":
            shorter = () if page.startswith("docs/howto/") else SHORTER.get(words[0], ())
            added = [option.split() for option in shorter]
            done = cli(*words, *(word for option in added if option[0] not in words for word in option))
            code, out, err = done.code, done.out, done.err
        else:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run([*PROGRAMS[program], *words], env=environment, capture_output=True, text=True)
            code, out, err = done.returncode, done.stdout, done.stderr
        said = re.search(r"# exit code (\d)", line)
        assert code == (int(said[1]) if said else 0), f"{line}\n{out}{err}"
        return out + err

    return run


@pytest.mark.parametrize("page", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in TOLD])
@pytest.mark.timeout(1800)
def test_a_page_runs(page: str, run: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(GIVEN.get(page, ""), names)
    printed = ""
    for language, step in _steps(page):
        if _reason(page, step) is not None:
            continue
        if language == "sh":
            printed += run(page, step)
        elif language == "text":
            if page.startswith("docs/howto/"):
                missing = [line for line in step.splitlines() if line != "..." and _shape(line) not in _shape(printed)]
                assert not missing, f"shown, but not printed: {missing}\n{printed}"
        elif file := re.match(r"# (\w+\.py)\n", step):
            Path(file[1]).write_text(step, encoding="utf-8")
        else:
            capsys.readouterr()
            exec(compile(step, page, "exec"), names)
            printed += capsys.readouterr().out


@pytest.mark.parametrize("page", NOT_RUN)
def test_what_is_not_run_is_there(page: str) -> None:
    found = {_reason(page, step) for _, step in _steps(page)}
    assert [begins for begins in NOT_RUN[page] if begins not in found] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_passed_over(page: str) -> None:
    """What runs is told by its language: a command in a block of another one would go untested."""
    assert {language for language, _ in FENCE.findall(PAGES[page])} <= {"sh", "python", "text", "toml"}
    assert PAGES[page].count("```") == 2 * len(FENCE.findall(PAGES[page]))
