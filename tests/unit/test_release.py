"""What a release promises: old runs are read for ever, a newer one is refused, public names stay, and the version is one."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

import holdfast
from holdfast.card.hub import card
from holdfast.card.measured import measured
from holdfast.comparison import compare
from holdfast.foundation.errors import BadFile
from holdfast.gate.judge import Gate, judge
from holdfast.records.certified import read_attacked, read_certified, read_certify_summary
from holdfast.records.detected import read_detected, scored
from holdfast.records.schema import SCHEMA_VERSION
from holdfast.report.page import render

ROOT = Path(__file__).parents[2]
VERSIONS = range(1, SCHEMA_VERSION + 1)
OLD = {version: ROOT / "tests" / "golden_runs" / f"schema_{version}" for version in VERSIONS}
"""Runs as the first release with each schema wrote them. They are never made anew."""
DOCUMENTS = [
    f"{part}{name}.json" for part in ("", "corruptions/", "perturbations/", "defended/") for name in ("run", "summary")
]

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
    taken = TAKES[name].split()
    assert set(taken) <= set(parameters)
    assert parameters[:2] == taken[:2], "an argument that may be given by place has moved"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_run_is_read_by_everything(version: int, tmp_path: Path) -> None:
    folder = OLD[version] / "audit"
    for document in DOCUMENTS:
        assert json.loads((folder / document).read_text())["schema_version"] == version
    summary = json.loads((folder / "summary.json").read_text())
    text = render([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in text for section in ("curve", "corruptions", "perturbations", "defended"))
    parts = compare([folder, folder]).parts
    assert [part.kind for part in parts] == ["worst case", "corruptions", "perturbations", "defence"]
    assert parts[0].headline.rates[0].value == summary["robust_accuracy"]["value"]
    (judged,) = judge(folder, Gate(require=("robust_accuracy >= 0",))).judged
    assert judged.value == summary["robust_accuracy"]["value"]
    assert "Robust accuracy" in card(measured(folder))


@pytest.mark.parametrize("version", VERSIONS)
def test_old_certificates_and_detectors_are_read(version: int) -> None:
    folder = OLD[version]
    assert len(read_certify_summary(folder / "certified").curve) == 2
    assert len(list(read_certified(folder / "certified"))) == 3 and list(read_attacked(folder / "certified"))
    assert read_detected(folder / "detected").rows and list(scored(folder / "detected"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_newer_run_is_refused_and_not_misread(document: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD[SCHEMA_VERSION] / "audit", tmp_path / "run"))
    told = json.loads((folder / document).read_text())
    (folder / document).write_text(json.dumps(told | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(BadFile, match="newer") as raised:
        compare([folder, folder])
    assert "upgrade" in raised.value.hint


def test_one_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))
    assert keys["version"] == holdfast.__version__ and keys["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "type"} <= keys.keys() and "\nauthors:\n  - name: " in text
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"To be {holdfast.__version__}" in log or f"## [{holdfast.__version__}]" in log
