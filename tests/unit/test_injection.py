"""One nasty string in the place of every name, through every output: shown harmlessly, or not at all."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as xml
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from report_fixture import write_run
from rich.table import Table

from holdfast.card.claim import claim
from holdfast.card.hub import card
from holdfast.card.measured import measured
from holdfast.cli import terminal
from holdfast.cli.watch import watching_counts
from holdfast.comparison import compare
from holdfast.foundation.text import visible
from holdfast.records.files import safe_names
from holdfast.records.schema import Finding
from holdfast.report.compared import write_comparison
from holdfast.report.index import write_index
from holdfast.report.page import render

FILE = "\"><img src=x onerror=alert(1)>[red]'$(id)"
NASTY = (
    FILE + "</script><script>alert(2)</script></title><svg onload=alert(3)>]]>-->\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[/bold]"
    "`x`|![i](http://evil.example/i.png)[l](javascript:alert(4))<!--{{ 7 * 7 }}{% raw %}\n---\n- injected: true\n::error::x"
)  # fmt: skip


class Seen(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs whose every name is nasty; of one the folder, too."""
    root = tmp_path_factory.mktemp("runs")
    finding = Finding(check=NASTY, level="warning", saw=NASTY, means=NASTY, remedy=NASTY)
    more = {"n": 12, "num_classes": 2, "gallery": 2, "curve": (8 / 255,), "searches": False}
    for folder, seed in ((FILE, 0), ("b", 1)):
        write_run(
            root / folder, name=NASTY, data=NASTY, command=NASTY, class_names=(NASTY, f"{NASTY}2"), findings=(finding,),
            seed=seed, **more,
        )  # fmt: skip
    return root


def harmless(page: Path, scripts: int) -> None:
    text = page.read_text(encoding="utf-8")
    tags = Seen(text).tags
    assert sum(tag == "script" for tag, _ in tags) == scripts
    assert not {tag for tag, _ in tags} & {"iframe", "object", "embed", "base"}
    assert any(each.get("http-equiv") == "Content-Security-Policy" for _, each in tags)
    for _, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            assert re.match(r"data:|#|[^:/][^:]*$", attributes.get(name) or "#"), attributes
    assert "49" not in re.findall(r"\{\{.{0,9}", text) and "{{ 7 * 7 }}" in text


def test_the_report(runs, tmp_path) -> None:
    harmless(render([runs / FILE], tmp_path / "page.html"), scripts=2)


def test_the_comparison(runs, tmp_path) -> None:
    harmless(write_comparison(compare([runs / FILE, runs / "b"]), tmp_path / "page.html"), scripts=0)


def test_the_index(runs, tmp_path) -> None:
    (runs / FILE / "report.html").write_text("")
    page = write_index(runs)
    harmless(page, scripts=1)
    assert any("onerror" in (each.get("href") or "") for _, each in Seen(page.read_text()).tags), "a link to the report"


def test_the_card_and_the_claim(runs) -> None:
    found = measured(runs / "b")
    text = card(found, name=NASTY, dataset=NASTY, licence=NASTY)
    _, head, body = text.split("---\n", 2)
    data = yaml.safe_load(head)
    assert set(data) == {"license", "pipeline_tag", "tags", "metrics", "model-index"}
    assert data["license"] == data["model-index"][0]["name"] == visible(NASTY)
    shown = re.sub(r"(?m)^    .*$", "", body)  # but for code, which shows everything as it is
    assert not re.search(r"(?<!\\)[<`\]]|(?m:^- injected|^::)", shown)
    assert visible(text, keep="\n") == text
    told = claim(found, {"name": NASTY, "link": NASTY})
    assert json.loads(json.dumps(told))["name"] == NASTY


def test_the_verdict_of_a_gate(runs, tmp_path, cli) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    assert cli("gate", runs / FILE, "clean_accuracy >= 0", "--junit", junit, "--step-summary", summary).code == 3
    assert cli("gate", tmp_path / FILE, "clean_accuracy >= 0", "--step-summary", summary).code == 2
    suite = xml.parse(junit).getroot()
    assert {each.tag for each in suite.iter()} == {"testsuites", "testsuite", "testcase", "system-out", "error"}
    assert visible(junit.read_text(), keep="\n\t") == junit.read_text()
    text = summary.read_text()
    assert not re.search(r"(?<!\\)[<`\]]|(?m:^- injected|^::)", text) and visible(text, keep="\n") == text


def test_the_terminal(runs, tmp_path, cli) -> None:
    for asked in (
        ("gate", runs / FILE, "clean_accuracy >= 0"),
        ("gate", runs / FILE, NASTY),
        ("gate", runs / FILE, "clean_accuracy >= 0", "--json"),
        ("compare", runs / FILE, runs / "b"),
        ("card", runs / FILE),
        ("card", runs / FILE, "--claim", tmp_path / "claim.json", "--field", f"{NASTY}=1"),
        ("report", tmp_path / NASTY),
        ("verify", tmp_path / NASTY),
        ("plan", "--model", NASTY, "--data", NASTY, "--eps", NASTY),
        ("doctor", "--model", f"net:{NASTY}", "--data", "digits"),
        (NASTY,),
        ("list", NASTY),
        ("audit", f"--{NASTY}"),
    ):
        ran = cli(*asked)
        for text in (ran.out, ran.err):
            assert visible(text, keep="\n\t") == text, asked
        assert ran.out or ran.err


@pytest.mark.parametrize("live", [True, False])
def test_a_console_obeys_the_program_alone(live: bool, monkeypatch, capsys) -> None:
    for name in ("FORCE_COLOR", "TTY_INTERACTIVE") if live else ():
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm")
    console = terminal.terminal()
    console.print("[bold]bold[/bold]", "\x1b]0;owned\x07", "\x9b2J", "a\u202eb", "\N{NO-BREAK SPACE}\u00fc\n")
    table = Table("x\x1b[3J")
    table.add_row("y\x1b[3J")
    console.print(table)
    with watching_counts(console, "[/x]\x1b[3Jz") as watch:
        assert watch is not None
        watch("[red]\x1b[3J", 3, 3)
    text = capsys.readouterr().out
    assert not re.search(r"\x1b\]|\x1b\[3J|[\x07\x9b\u202e]", text)
    assert ("\x1b[1mbold" in text) == live and "\N{NO-BREAK SPACE}\u00fc\n" in text
    assert "[/x]" in text and "[red]" in text


def test_names_of_classes_are_folders_of_their_own() -> None:
    names = ("a/b", "a_b", "A_B", "..", ".", "", "/etc", "con\x1b[2J", "x" * 400, "x" * 401, "a_b_1")
    safe = safe_names(names)
    assert len({each.casefold() for each in safe}) == len(names)
    for each in safe:
        assert (
            each == visible(each) and not {"/", "\\", "\0"} & {*each} and each.strip(".") and len(each.encode()) < 255
        )
    assert safe_names(("cat", "dog")) == ["cat", "dog"]
