"""What a release promises: old runs are read for ever, a newer one is refused, and the citation is that of this version."""

from __future__ import annotations

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
from holdfast.records.schema import SCHEMA_VERSION
from holdfast.report import render

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = range(1, SCHEMA_VERSION + 1)
DOCUMENTS = [
    f"{part}{name}.json" for part in ("", "corruptions/", "perturbations/", "defended/") for name in ("run", "summary")
]


def test_every_version_of_the_schema_has_a_run() -> None:
    assert sorted(folder.name for folder in SCHEMAS.iterdir()) == [str(version) for version in VERSIONS]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_run_is_read_by_everything(version: int, tmp_path: Path) -> None:
    folder = SCHEMAS / str(version)
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_newer_run_is_refused_and_not_misread(document: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(SCHEMAS / str(SCHEMA_VERSION), folder)
    told = json.loads((folder / document).read_text())
    (folder / document).write_text(json.dumps(told | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(BadFile, match="newer") as raised:
        compare([folder, folder])
    assert "upgrade" in raised.value.hint


def test_the_citation() -> None:
    text = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))
    assert keys["version"] == holdfast.__version__ and keys["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "type"} <= keys.keys() and "\nauthors:\n  - name: " in text
