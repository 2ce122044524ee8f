"""A model card as the hub reads it, and a claim in RobustBench's form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_fixture import write_run

from holdfast.card.claim import OWN, claim
from holdfast.card.hub import card
from holdfast.card.measured import measured
from holdfast.foundation.errors import BadFile, BadValue, UnknownName
from holdfast.records.schema import Finding

DOUBT = Finding(check="masking", level="warning", saw="flat", means="too high", remedy="look")
EVIL = 'a "quoted": name\n---\n| x | ![i](http://x/y.png) <script>'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    write_run(folder, name="net", findings=(DOUBT,))
    return folder


def _block(lines: list[str], depth: int = 0) -> Any:
    """The subset of YAML that a card is written in: mappings and lists by indentation, scalars as JSON."""
    if lines[0].lstrip().startswith("- "):
        items: list[list[str]] = []
        for line in lines:
            if line.startswith("  " * depth + "- "):
                items.append([])
            items[-1].append(line.replace("- ", "  ", 1) if line.startswith("  " * depth + "- ") else line)
        return [
            _block(item, depth + 1) if ": " in item[0] or item[0].endswith(":") else json.loads(item[0])
            for item in items
        ]
    found: dict[str, Any] = {}
    place = 0
    while place < len(lines):
        key, _, value = lines[place].strip().partition(":")
        place += 1
        inner = []
        while place < len(lines) and lines[place].startswith("  " * (depth + 1)):
            inner.append(lines[place])
            place += 1
        found[key] = json.loads(value) if value else _block(inner, depth + 1)
    return found


def _parts(text: str) -> tuple[Any, str]:
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.S)
    assert match is not None
    return _block(match[1].split("\n")), match[2]


def test_the_metadata_are_those_that_the_hub_reads(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    data, _ = _parts(card(measured(run), name="team/net", dataset="cifar10", licence="apache-2.0"))
    (entry,) = data["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "team/net" and data["license"] == "apache-2.0"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "cifar10", "name": "digits"}
    for metric in result["metrics"]:
        assert metric["type"] == "accuracy" and 0 <= metric["value"] <= 1 and metric["args"]["n"] == 200
    named = {metric["name"]: metric for metric in result["metrics"]}
    robust = named["Robust accuracy (linf, eps 8/255)"]
    assert robust["value"] == round(summary["robust_accuracy"]["value"], 4)
    assert robust["args"]["interval_95"] == [round(summary["robust_accuracy"][end], 4) for end in ("low", "high")]
    assert named["Clean accuracy"]["value"] == round(summary["clean_accuracy"]["value"], 4)
    assert len(named) == 5  # clean, and the four radii


def test_an_evil_name_stays_a_name(run: Path) -> None:
    data, body = _parts(card(measured(run), name=EVIL))
    assert data["model-index"][0]["name"] == EVIL.replace("\n", "\N{REPLACEMENT CHARACTER}")
    heading = body.strip().split("\n")[0]
    assert heading.startswith("# a") and "\\!\\[i\\]\\(" in heading and "\\<script\\>" in heading


def test_the_body_says_the_numbers_and_the_doubts(run: Path) -> None:
    _, body = _parts(card(measured(run)))
    summary = json.loads((run / "summary.json").read_text())
    assert f"{100 * summary['robust_accuracy']['value']:.1f} %" in body
    assert "masking: flat" in body and "upper bound" in body and "    holdfast audit" in body


def test_the_claim(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    found = claim(measured(run), {"name": "A paper", "additional_data": False, "footnote": "Ours."})
    assert found["clean_acc"] == f"{100 * summary['clean_accuracy']['value']:.2f}"
    assert found["reported"] == f"{100 * summary['robust_accuracy']['value']:.2f}" and found["eps"] == "8/255"
    assert found["autoattack_acc"] is None and found["unreliable"] is True and found["dataset"] == "digits"
    assert found["name"] == "A paper" and found["additional_data"] is False and found["link"] is None
    assert found["footnote"].startswith("Ours. Measured by holdfast") and "masking" in found["footnote"]
    assert set(OWN) <= set(found)
    with pytest.raises(UnknownName):
        claim(measured(run), {"clean_acc": "99"})
    with pytest.raises(BadValue, match="additional_data"):
        claim(measured(run), {"additional_data": "no"})


def test_the_command(cli, run: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "README.md", tmp_path / "claim.json"
    ran = cli(
        "card", run, "--out", out, "--claim", told, "--field", "venue=ICML 2030", "--field", "number_forward_passes=1"
    )
    assert ran.code == 0 and out.read_text().startswith("---\n")
    assert json.loads(told.read_text())["venue"] == "ICML 2030"
    again = cli("card", run, "--out", out)
    assert again.code == 2 and "there already" in again.err
    assert cli("card", run).out == out.read_text()
    assert cli("card", run, "--field", "venue=x").code == 2
    assert cli("card", tmp_path / "none").code == 2
    with pytest.raises(BadFile):
        measured(tmp_path)
