"""The wheel, installed where the repository is not: it has all it needs to list, to audit and to write its page."""

from __future__ import annotations

import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment that has the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (installed,) = folder.glob("lib/python*/site-packages")
    # A plain path: the editable install that its own .pth files stand for is not followed.
    (installed / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return python


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.split("/")[0] for name in names}
    assert rooms == {"holdfast", f"holdfast-{holdfast.__version__}.dist-info"}
    packed = {name for name in names if name.startswith("holdfast/")}
    tracked = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.is_file()}
    assert packed == {name for name in tracked if "__pycache__" not in name}


def test_it_runs_where_the_repository_is_not(python: Path, tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(python.parents[1]) in told("-c", "import holdfast; print(holdfast.__file__)")
    holdfast_ = ("-m", "holdfast")
    assert told(*holdfast_, "--version").strip() == holdfast.__version__
    assert "apgd" in told(*holdfast_, "list", "attack")
    audit = ("audit", "--model", "net:small_cnn", "--data", "digits", "--limit", "4", "--plan", "sweep", "--eps", "0.1")
    told(*holdfast_, *audit, "--out", "run", "--quiet")
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
