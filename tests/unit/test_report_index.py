"""The page of all runs in a folder: every kind of run, finished or not, and nothing that is not one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_fixture import write_run

from holdfast.foundation.errors import BadValue
from holdfast.report.index import INDEX, lines, write_index

GOLDEN = Path(__file__).parents[1] / "golden_runs" / "schema_1"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "runs")
    write_run(tmp_path / "runs" / "deep" / "er" / "b", name=EVIL, n=20)
    (tmp_path / "runs" / "empty").mkdir()
    return tmp_path / "runs"


def test_every_kind_of_run_has_a_line(runs: Path) -> None:
    found = {(line.folder, line.entry.kind): line.entry for line in lines(runs)}
    assert set(found) == {
        ("audit", "audit"),
        ("audit", "corruptions"),
        ("audit", "perturbations"),
        ("certified", "certify"),
        ("deep/er/b", "audit"),
        ("defended", "defence"),
        ("detected", "detect"),
    }
    audit = found["audit", "audit"]
    assert (audit.asked, audit.data) == ("linf 0.2, quick", "digits:test, 6")
    assert audit.clean == pytest.approx(5 / 6) and audit.outcome == pytest.approx(1 / 3) and "9.7" in audit.told
    assert found["audit", "corruptions"].outcome == pytest.approx(1 - 1 / 6)
    assert [line.entry.created for line in lines(runs)] == sorted((e.created for e in found.values()), reverse=True)


def test_what_is_unfinished_or_damaged_is_listed_as_that(runs: Path) -> None:
    (runs / "audit" / "summary.json").unlink()
    (runs / "defended" / "defended" / "run.json").write_text("{")
    found = {(line.folder, line.entry.kind): line.entry for line in lines(runs)}
    assert found["audit", "audit"].outcome is None and not found["audit", "audit"].told
    assert "cannot be read" in found["defended", "damaged"].asked


def test_the_page(runs: Path) -> None:
    (runs / "audit" / "report.html").write_text("here")
    page = write_index(runs)
    text = page.read_text(encoding="utf-8")
    assert page == runs / INDEX and 'href="audit/report.html"' in text and "not finished" not in text
    assert EVIL not in text and "&lt;script&gt;" in text
    assert lines(runs) == lines(runs), "the page itself is no run"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="no run lies in"):
        write_index(tmp_path)
    with pytest.raises(BadValue, match="is no folder"):
        write_index(tmp_path / "missing")
