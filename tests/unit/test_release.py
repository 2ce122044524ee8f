"""What a release promises: old runs load, public names stay and what they take, and the version is one."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

import pytest

import holdfast
from holdfast.records.certified import read_attacked, read_certified, read_certify_summary
from holdfast.records.defended import attacked, read_defended_summary
from holdfast.records.detected import read_detected, scored
from holdfast.report import render
from holdfast.report.read import read

ROOT = Path(__file__).parents[2]
OLD = sorted((ROOT / "tests" / "golden_runs").iterdir())
"""Runs as the first release with each schema wrote them. They are never made anew."""

TAKES = {
    "Audit": "ids labels correct robust points summary folder",
    "Backward": "tau slope straight_through",
    "CorruptionAudit": "summary seen ids folder",
    "DefenceAudit": "summary info right ids folder",
    "DetectorAudit": "summary told folder",
    "HoldfastError": "message hint",
    "L0": "eps",
    "L1": "eps",
    "L2": "eps",
    "Linf": "eps",
    "Patch": "eps",
    "Perturbed": "x fooled value distance forwards backwards",
    "Plan": "name about stages threats draws",
    "SmoothingAudit": "summary certificates ids folder",
    "Spatial": "eps",
    "Stage": "name attack backward entry",
    "audit": "model data threat plan seed out curve audited limit slots watch",
    "audit_corruptions": "model data corruptions severities variant frost_dir released jpeg baseline adapt adaptation "
    "seed out limit watch",
    "audit_defence": "model data defence threat steps restarts budgets evaluations tries seed out limit watch",
    "audit_detectors": "model data detectors train false_alarms steps restarts evaluations seed out limit watch",
    "audit_perturbations": "model data perturbations difficulty variant baseline seed out limit watch",
    "audit_smoothing": "model data sigma select estimate alpha radii attack steps restarts draws predict seed out limit "
    "watch",
    "explain": "model data threat probes against known control limit budget seed out step",
}
"""Public names that can be called, and arguments that they take. More may come; none goes without a release that says so."""


def test_public_names_stay() -> None:
    assert {*TAKES, "Attack", "Threat", "attacks", "__version__"} <= set(holdfast.__all__)


@pytest.mark.parametrize("name", TAKES)
def test_public_names_take_what_they_took(name: str) -> None:
    called = getattr(holdfast, name)
    if inspect.ismodule(called):
        called = getattr(importlib.import_module(f"holdfast.{name}.api"), name)
    parameters = list(inspect.signature(called).parameters)
    assert set(TAKES[name].split()) <= set(parameters)
    positional = [each for each in TAKES[name].split()[:2] if parameters.index(each) < 2]
    assert positional == TAKES[name].split()[:2], "an argument that may be given by place has moved"


@pytest.fixture(params=OLD, ids=lambda folder: folder.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "old"))


def test_old_runs_load(old: Path) -> None:
    run = read(old / "audit")
    assert run.summary.robust_accuracy.n == len(
        run.outcomes
    ) == 6 and run.summary.robust_accuracy.value == pytest.approx(1 / 3)
    summary = read_certify_summary(old / "certified")
    assert len(list(read_certified(old / "certified"))) == 3 and len(summary.curve) == 2
    assert len(list(read_attacked(old / "certified"))) > 0
    assert read_defended_summary(old / "defended").n == 3 and list(attacked(old / "defended"))
    assert read_detected(old / "detected").rows and list(scored(old / "detected"))


def test_old_runs_are_shown(old: Path) -> None:
    for name, said in (("audit", "33.3"), ("defended", "bit depth")):
        assert said in render([old / name], old / f"{name}.html").read_text(encoding="utf-8")


def test_one_version() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited and cited[1] == holdfast.__version__
    assert f"To be {holdfast.__version__}" in (ROOT / "CHANGELOG.md").read_text() or (
        f"## [{holdfast.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    )
