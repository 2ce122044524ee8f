"""The page: what it says, that it says it safely, and that it is a pure function of the folders."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_fixture import write_run

from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, StorageError
from holdfast.records.schema import Finding
from holdfast.report import wording
from holdfast.report.page import render
from holdfast.report.read import read
from holdfast.report.tally import bins, classes, losses, pair

VOID = {"meta", "link", "img", "br", "input"}
SECTIONS = ["verdict", "doubts", "curve", "stages", "margins", "gallery", "classes", "samples", "measured", "glossary"]


class Page(HTMLParser):
    """Checks that elements nest, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.words))


def page(tmp_path: Path, *folders: str) -> tuple[str, Page]:
    text = render([tmp_path / folder for folder in folders], tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_the_numbers_are_those_of_the_summary(tmp_path):
    summary = write_run(tmp_path / "a", n=500)
    _, found = page(tmp_path, "a")
    robust, clean = summary.robust_accuracy, summary.clean_accuracy
    sentence = (
        f"Of 500 test images the model gets {100 * clean.value:.1f}\xa0% right; at the worst change that was found of at "
        f"most 8/255 per pixel value (black is 0, white is 1) it still gets {100 * robust.value:.1f}\xa0% right "
        f"(95\xa0% interval {100 * robust.low:.1f}–{100 * robust.high:.1f}\xa0%)."
    )
    assert sentence in found.text
    for point in summary.curve:
        assert wording.percent(point.robust_accuracy.value) in found.text
        assert wording.interval(point.robust_accuracy) in found.text
    for number in (summary.forwards, summary.backwards, *(stage.forwards for stage in summary.stages)):
        assert wording.count(number) in found.text
    assert "upper bound" in found.text
    assert "No check found a reason to doubt it." in found.text and "No check objected." in found.text
    assert "1\xa0min 16\xa0s" in found.text
    assert [attrs["id"] for _, attrs in found.seen if attrs.get("id") in SECTIONS] == SECTIONS


def test_same_files_same_bytes_wherever_they_lie(tmp_path):
    for folder in ("a", "elsewhere/b"):
        write_run(tmp_path / folder, n=60)
    write_run(tmp_path / "c", n=60, name="robust", typical=20 / 255)
    first = render([tmp_path / "a", tmp_path / "c"], tmp_path / "one.html").read_bytes()
    second = render([tmp_path / "elsewhere/b", tmp_path / "c"], tmp_path / "new/two.html").read_bytes()
    assert first == second
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["two.html"]


EVIL = "<script>alert(1)</script>\"'&\x07"


def test_every_name_is_escaped(tmp_path):
    finding = Finding(check=EVIL, level="warning", saw=EVIL, means=EVIL, remedy=EVIL)
    names = (EVIL, "<img src=http://x onerror=alert(1)>", "{{ 7 * 7 }}")
    more = {
        "num_classes": 3,
        "class_names": names,
        "threat": EVIL,
        "data": EVIL,
        "command": EVIL,
        "findings": (finding,),
    }
    for folder in "ab":
        write_run(tmp_path / folder, name=EVIL, **more)
    text, found = page(tmp_path, "a", "b")
    assert not {tag for tag, _ in found.seen} & {"iframe", "object", "b<"}
    kinds = [attrs.get("type") for tag, attrs in found.seen if tag == "script"]
    assert kinds == ["application/json", "application/json", None] and text.count("<script") == 3
    assert not any(name.startswith("on") for _, attrs in found.seen for name in attrs)
    assert "<script>alert" not in text and "alert(1)</script" not in text
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text


def test_nothing_is_loaded_from_anywhere(tmp_path):
    write_run(tmp_path / "a", shape=(3, 8, 8))
    text, found = page(tmp_path, "a")
    own = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert own
    digest = base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()
    policy = next(attrs["content"] for _, attrs in found.seen if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    for tag, attrs in found.seen:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    rest = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|url\(|@import", rest)


def test_two_runs_are_compared_on_pairs(tmp_path):
    for folder, typical in (("a", 3 / 255), ("b", 20 / 255)):
        write_run(tmp_path / folder, name=folder, typical=typical, seed=ord(folder))
    _, found = page(tmp_path, "a", "b")
    compared = pair(read(tmp_path / "a"), read(tmp_path / "b"))
    assert compared is not None
    assert f"b still gets {compared.test.only_b} right that a loses, and loses {compared.test.only_a}" in found.text
    assert "McNemar" in found.text
    assert "p\xa0<\xa00.0001" in found.text
    assert compared.difference.value == pytest.approx((compared.test.only_b - compared.test.only_a) / compared.n)
    assert f"a difference of {wording.points(compared.difference)} points" in found.text


@pytest.mark.parametrize("other", [{"data": "cifar"}, {"eps": 4 / 255}, {"threat": "l2"}, {"n": 90}])
def test_runs_that_cannot_be_compared_are_not(tmp_path, other):
    write_run(tmp_path / "a", name="a", n=100)
    write_run(tmp_path / "b", **{"name": "b", "n": 100, **other})
    _, found = page(tmp_path, "a", "b")
    assert "McNemar" not in found.text
    assert "compare their numbers with care" in found.text


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder in "abc":
        write_run(tmp_path / folder, n=30)
    _, found = page(tmp_path, *"abc")
    assert "standard (2)" in found.text
    assert "standard (3)" in found.text
    assert "these 3 models" in found.text


@pytest.mark.parametrize(
    "case",
    [
        {"typical": np.inf, "wrong": 0.0},
        {"typical": 0, "wrong": 0.0},
        {"typical": 0, "wrong": 1.0},
        {"n": 1},
        {"n": 1, "typical": 0},
        {"gallery": None},
        {"gallery": 0},
        {"gallery": 40, "n": 400, "shape": (3, 32, 32)},
        {"shape": (3, 120, 80), "n": 40},
        {"shape": (2, 5, 7), "n": 40},
        {"num_classes": 100, "n": 300},
        {"threat": "l2", "curve": (0.25, 0.5, 1.0), "eps": 0.5, "typical": 0.5},
        {"threat": "l0", "curve": (1.0,), "eps": 1.0, "typical": 1.0},
        {"threat": "my_own", "curve": (0.3,), "eps": 0.3, "typical": 0.3},
    ],
    ids=str,
)
def test_every_kind_of_run_makes_a_page(tmp_path, case):
    write_run(tmp_path / "a", **case)
    write_run(tmp_path / "b", **case)
    _, found = page(tmp_path, "a", "b")
    assert sum(tag == "img" for tag, _ in found.seen) <= 3 * 24
    assert all(attrs["alt"] for tag, attrs in found.seen if tag == "img")
    assert all(attrs.get("scope") for tag, attrs in found.seen if tag == "th")
    assert not re.search(r"\b(nan|None|inf)\b", found.text)


def test_a_run_in_which_all_or_nothing_broke_says_so(tmp_path):
    write_run(tmp_path / "all", typical=0, wrong=0.0, n=50)
    write_run(tmp_path / "none", typical=np.inf, wrong=0.0, n=1)
    assert "it still gets 0.0\xa0% right (95\xa0% interval 0.0–7.1\xa0%)" in page(tmp_path, "all")[1].text
    text = page(tmp_path, "none")[1].text
    assert "Of 1 test image the model" in text
    assert "no image was broken" in text


def test_findings_stand_gravest_first_and_notes_apart(tmp_path):
    levels = ("note", "warning", "error")
    found = tuple(Finding(check=f"check {level}", level=level, saw="s", means="m", remedy="r") for level in levels)
    write_run(tmp_path / "a", findings=found)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    summary["notes"] = [{**found[0].model_dump(), "check": "check of the run itself"}]
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary))
    text = page(tmp_path, "a")[1].text
    assert "Do not rely on these numbers: check error." in text
    doubts = text[text.index("Reasons to doubt ") :]
    places = [
        doubts.index(words) for words in ("check error", "check warning", "2 notes worth", "check note", "check of")
    ]
    assert places == sorted(places)
    assert doubts.count("check error") == 1  # it is in run.json and in summary.json
    assert "No check objected" not in text


def test_the_page_stays_small(tmp_path):
    write_run(tmp_path / "a", n=10_000, num_classes=100, gallery=30, shape=(3, 160, 160), searches=False)
    text, _ = page(tmp_path, "a")
    assert len(text.encode()) < 3_000_000


def test_the_table_of_samples_holds_every_one(tmp_path):
    summary = write_run(tmp_path / "a", n=400, num_classes=3, class_names=("</script>", "&amp;", "c"))
    text, _ = page(tmp_path, "a")
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    told = json.loads(data)
    assert told["classes"] == ["</script>", "&amp;", "c"] and told["stages"][0] == "clean"
    run = read(tmp_path / "a")
    assert [row[0] for row in told["rows"]] == [outcome.id for outcome in run.outcomes]
    for (_, label, predicted, stage, radius, distance, margin), outcome in zip(told["rows"], run.outcomes):
        assert label == outcome.label and margin == pytest.approx(outcome.margin, rel=1e-3)
        if outcome.eps is None:
            assert (predicted, stage, radius, distance) == (None, -1, None, None)
        else:
            assert (predicted, told["stages"][stage]) == (outcome.predicted, outcome.stage)
            assert told["radii"][radius] == units.show(outcome.eps) and distance == pytest.approx(
                outcome.distance, rel=1e-3
            )
    clean = sum(row[3] == 0 for row in told["rows"])
    assert clean == 400 - round(400 * summary.clean_accuracy.value)


def test_marks_of_charts_tell_their_values(tmp_path):
    summary = write_run(tmp_path / "a", n=400)
    text, _ = page(tmp_path, "a")
    titles = re.findall(r"<title>(.*?)</title>", text)
    for point in summary.curve:
        share = f"{wording.percent(point.robust_accuracy.value)} ({wording.interval(point.robust_accuracy)}), n = 400"
        assert f"standard at eps {units.show(point.eps)}: {share}" in titles
    bars = [title for title in titles if "images between" in title]
    assert sum(int(title.split()[0]) for title in bars) == 2 * 400  # wide and narrow


def test_counts_agree_with_each_other(tmp_path):
    summary = write_run(tmp_path / "a", n=400)
    run = read(tmp_path / "a")
    robust = round(summary.robust_accuracy.value * 400)
    assert losses(run)[-1].left == robust
    assert [loss.stage for loss in losses(run)] == ["clean", "pgd", "apgd-ce", "apgd-t"]
    assert sum(row.n - row.broken for row in classes(run)) == robust
    histogram = bins([run])[0]
    assert sum(bar.count for bar in histogram) == 400
    assert sum(bar.count for bar in histogram if bar.high <= 0) == 400 - robust


def test_what_cannot_be_written_is_an_error_that_leaves_nothing(tmp_path):
    write_run(tmp_path / "a", n=5)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        render([tmp_path / "a"], tmp_path / "folder")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(BadValue, match="no run folder"):
        render([], tmp_path / "x.html")


def test_words():
    assert [wording.share(value) for value in (0, 1, 0.9999, 0.0001, 0.978)] == [
        "0.0",
        "100.0",
        "99.99",
        "0.01",
        "97.8",
    ]
    assert wording.count(1234567) == "1\u202f234\u202f567"
    assert wording.distance(0.0313726, levels=True) == "8/255"
    assert [wording.in_levels(radii) for radii in ((2 / 255, 8 / 255), (0.25, 8 / 255), (0.0,))] == [True, False, False]


def test_stages_that_broke_nothing_stand_together():
    from holdfast.report.tally import Loss, condensed

    rows = [
        Loss("clean", 0, 10, 10, 0),
        Loss("a", 2, 8, 5, 5),
        *(Loss(name, 0, 8, 3, 2) for name in "bcd"),
        Loss("e", 1, 7, 1, 1),
    ]
    assert [row.stage for row in condensed(rows)] == ["clean", "a", "b to d", "e"]
    assert condensed(rows)[2] == Loss("b to d", 0, 8, 9, 6)
    assert condensed(rows[:4]) == tuple(rows[:4])
