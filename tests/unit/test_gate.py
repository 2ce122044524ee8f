"""A gate: requirements, verdicts, exit codes, what other programs read of it."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixture import write_run

from holdfast.foundation.errors import BadFile, BadValue, Incomplete, UnknownName
from holdfast.gate.figures import FIGURES
from holdfast.gate.judge import Gate, gate, judge
from holdfast.gate.requirement import requirement
from holdfast.gate.tell import figure, write_junit
from holdfast.gate.verdict import Judged
from holdfast.records.schema import Finding
from holdfast.report.wording import markdown

DOUBT = Finding(check="masking", level="warning", saw="flat", means="too high", remedy="look")
ROOT = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)</script>|`x`\x01"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    write_run(folder / "main", name="main")
    write_run(folder / "branch", name="branch", typical=12 / 255, seed=1)
    write_run(folder / "doubted", name=SCRIPT, findings=(DOUBT,))
    return folder


@pytest.fixture(autouse=True)
def no_step_summary(monkeypatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def _summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    ("text", "measure", "eps", "wanted"),
    [
        ("robust_accuracy >= 0.45", "robust_accuracy", None, 0.45),
        ("Robust_Accuracy at 4/255 >=45%", "robust_accuracy", 4 / 255, 0.45),
        ("mCE <= 80 %", "mce", None, 0.8),
        ("difference > -2e-2", "difference", None, -0.02),
    ],
)
def test_requirements_are_read(text: str, measure: str, eps: float | None, wanted: float) -> None:
    found = requirement(text)
    assert (found.measure, found.eps, found.wanted) == (measure, eps, pytest.approx(wanted))
    up = text.count(">") == 1
    assert found.met(wanted + 0.01) is up and found.met(wanted - 0.01) is not up
    assert found.met(wanted) is ("=" in text) and not found.met(float("nan"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "robust_accuracy",
        "robust_accuracy = 0.4",
        ">= 0.4",
        "a >= b",
        "a >= 1.2.3",
        "a at x >= 0.4",
        "a >= inf",
        "a >= 1e999",
    ],
)
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(BadValue) as raised:
        requirement(text)
    assert raised.value.hint


@settings(max_examples=40)
@given(
    st.text(max_size=60)
    | st.from_regex(r"[a-z_]{0,8}( at [0-9/.e-]{1,8})? ?(>=|<|=>) ?[0-9.e+-]{0,9}%?", fullmatch=True)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadValue):
        found = requirement(text)
        assert math.isfinite(found.wanted) and (found.eps is None or found.eps >= 0)


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_text_is_shown_as_text(text: str) -> None:
    told = markdown(text)
    assert "\n" not in told and re.search(r"(?<!\\)(?:\\\\)*[<>|`!\[]", told) is None
    with tempfile.TemporaryDirectory() as folder:
        write_junit(Path(folder) / "j.xml", text, None, BadValue(text, hint="x"))
        assert xml.parse(Path(folder) / "j.xml").getroot().get("errors") == "1"


def test_values_and_intervals(runs: Path) -> None:
    rate = _summary(runs / "main")["robust_accuracy"]
    between = (rate["low"] + rate["value"]) / 2
    asked = (f"robust_accuracy >= {between}",)
    (by_value,) = judge(runs / "main", Gate(require=asked)).judged
    (by_interval,) = judge(runs / "main", Gate(require=asked, bound="interval")).judged
    assert by_value.met and not by_value.clear and not by_interval.met
    assert (by_value.value, by_value.low, by_value.high, by_value.n) == (
        *(rate[k] for k in ("value", "low", "high")),
        200,
    )
    (below,) = judge(
        runs / "main", Gate(require=(f"robust_accuracy <= {rate['high'] - 1e-6}",), bound="interval")
    ).judged
    assert not below.met
    (clear,) = judge(runs / "main", Gate(require=(f"robust_accuracy >= {rate['low'] - 0.01}",))).judged
    assert clear.met and clear.clear


def test_a_radius_of_the_curve(runs: Path) -> None:
    (found,) = judge(runs / "main", Gate(require=("robust_accuracy at 4/255 >= 0",))).judged
    curve = {round(point["eps"] * 255): point["robust_accuracy"] for point in _summary(runs / "main")["curve"]}
    assert found.value == curve[4]["value"] != curve[8]["value"]
    with pytest.raises(BadValue, match="at 0, 2/255, 4/255") as raised:
        judge(runs / "main", Gate(require=("robust_accuracy at 3/255 >= 0",)))
    assert "at RADIUS" in raised.value.hint


def test_differences_are_paired(runs: Path) -> None:
    asked = ("difference >= 0", "difference at 2/255 >= 0", "clean_difference >= -0.05")
    verdict = judge(runs / "branch", Gate(require=asked, baseline=str(runs / "main")))
    one, two = _summary(runs / "main"), _summary(runs / "branch")
    for judged, key in zip(verdict.judged[::2], ("robust_accuracy", "clean_accuracy")):
        assert judged.value == pytest.approx(two[key]["value"] - one[key]["value"])
    assert verdict.judged[0].value > 0.1 and verdict.exit_code == 0
    assert [judged.what for judged in verdict.judged] == [
        "robust accuracy at 8/255",
        "robust accuracy at 2/255",
        "clean accuracy",
    ]
    assert judge(runs / "main", Gate(require=asked[:1], baseline=str(runs / "branch"))).exit_code == 1
    with pytest.raises(BadValue, match="no baseline"):
        judge(runs / "branch", Gate(require=asked))


def test_a_difference_between_plans_is_not_to_be_believed(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", name="other")
    info = json.loads((tmp_path / "other" / "run.json").read_text())
    (tmp_path / "other" / "run.json").write_text(json.dumps(info | {"plan": "slow"}))
    asked = Gate(require=("difference >= -1",), baseline=str(runs / "main"))
    verdict = judge(tmp_path / "other", asked)
    assert verdict.exit_code == 3 and [doubt.check for doubt in verdict.doubts] == ["another search"]
    accepted = asked.model_copy(update={"accept": ("another search",)})
    assert judge(tmp_path / "other", accepted).exit_code == 0


def test_doubts_come_before_everything(runs: Path) -> None:
    met, missed = "clean_accuracy >= 0.5", "clean_accuracy >= 0.999"
    assert judge(runs / "doubted", Gate(require=(met,))).exit_code == 3
    assert judge(runs / "doubted", Gate(require=(missed,))).exit_code == 3
    accepted = judge(runs / "doubted", Gate(require=(met,), accept=("masking",)))
    assert accepted.exit_code == 0 and [doubt.check for doubt in accepted.accepted] == ["masking"]
    beside = Gate(require=("difference >= -1",), baseline=str(runs / "doubted"))
    assert judge(runs / "main", beside).exit_code == 3


def test_what_the_run_does_not_have_is_refused(runs: Path, tmp_path: Path) -> None:
    for text, error in (
        ("robust_acuracy >= 0.4", UnknownName),
        ("mce <= 0.8", BadValue),
        ("robust_accuracy >= 45", BadValue),
        ("mce <= 80", BadValue),
    ):
        with pytest.raises(error) as raised:
            judge(runs / "main", Gate(require=(text,)))
        assert raised.value.hint
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(Incomplete):
        judge(tmp_path, Gate(require=("clean_accuracy >= 0",)))
    with pytest.raises(BadFile):
        judge(tmp_path / "none", Gate(require=("clean_accuracy >= 0",)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile):
        judge(tmp_path / "empty", Gate(require=("clean_accuracy >= 0",)))


def test_the_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('require = ["clean_accuracy >= 0.9"]\nbound = "interval"\naccept = ["a"]\n')
    found = gate(path, {"require": ("mce <= 1",), "bound": "value", "accept": None, "baseline": None})
    assert found == Gate(require=("clean_accuracy >= 0.9", "mce <= 1"), bound="value", accept=("a",))
    for text, error in (
        ("requires = []", UnknownName),
        ("require = 3", BadValue),
        ('bound = "upper"', BadValue),
        ("", BadValue),
    ):
        path.write_text(text)
        with pytest.raises(error) as raised:
            gate(path, {})
        assert raised.value.hint
    path.write_text("require = [")
    with pytest.raises(BadFile):
        gate(path, {})


def test_exit_codes_and_files(cli, runs: Path, tmp_path: Path, monkeypatch) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for run, wanted, code, (failures, errors) in (
        ("main", "clean_accuracy >= 0.5", 0, ("0", "0")),
        ("main", "clean_accuracy >= 0.999", 1, ("1", "0")),
        ("main", "mce <= 1", 2, ("0", "1")),
        ("doubted", "clean_accuracy >= 0.5", 3, ("0", "1")),
    ):
        ran = cli("gate", runs / run, wanted, "--junit", junit)
        assert ran.code == code, ran
        suite = xml.parse(junit).getroot().find("testsuite")
        assert suite is not None and (suite.get("failures"), suite.get("errors")) == (failures, errors)
        assert len(suite.findall("testcase")) == int(suite.get("tests") or 0)
        assert len(suite.findall("testcase/failure")) == int(failures)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    assert cli("gate", tmp_path / "begun", "clean_accuracy >= 0.5", "--junit", junit).code == 4
    assert xml.parse(junit).getroot().get("errors") == "1"
    text = summary.read_text()
    assert text.count("### holdfast gate") == 5 and "| clean\\_accuracy \\>= 0.5 |" in text
    assert "\\<script\\>" in text and "<script" not in text.replace("\\<", "")
    other = tmp_path / "other.md"
    cli("gate", runs / "main", "clean_accuracy >= 0.5", "--step-summary", other)
    assert other.exists() and summary.read_text() == text
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    told = json.loads(cli("gate", runs / "main", "clean_accuracy >= 0.5", "--json").out)
    assert told["judged"][0]["met"] is True and summary.read_text() == text


def test_the_examples(cli) -> None:
    """The file loads, and every holdfast line of the workflow names options that its command has."""
    assert gate(ROOT / "examples" / "gate.toml", {}).require
    text = (ROOT / "examples" / "github-workflow.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^ *(?:run: )?(holdfast .*)$", text, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        _, command, *words = shlex.split(line)
        shown = cli(command, "--help")
        assert shown.code == 0
        for word in words:
            assert not word.startswith("--") or re.search(rf"(?<![\w-]){word}\b", shown.out), f"{command}: {word}"


def test_every_figure_is_documented() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    assert [name for name in FIGURES if f"`{name}`" not in page] == []
    assert [key for key in Gate.model_fields if f"`{key}`" not in page] == []


@pytest.mark.parametrize(
    "asked, told",
    [("gain >= 0.02", "gain: 0.035 (-0.010 to 0.080), n = 9"), ("gain >= 2 %", "gain: 3.5 % (-1.0 to 8.0), n = 9")],
)
def test_a_figure_is_told_in_the_unit_that_was_asked_for(asked: str, told: str) -> None:
    assert (
        figure(Judged(asked=asked, what="gain", value=0.035, low=-0.01, high=0.08, n=9, met=True, clear=False)) == told
    )
