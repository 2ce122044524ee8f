"""Runs beside one another: the pairing, the tests, what is refused, what changed, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_fixture import write_run
from safetensors.numpy import save_file

from holdfast.comparison import compare
from holdfast.foundation.errors import BadFile, BadValue, PlanMismatch
from holdfast.foundation.stats import holm, mcnemar
from holdfast.records.comparison import Against, Difference
from holdfast.records.schema import Finding
from holdfast.report.compared import verdict, write_comparison
from holdfast.report.read import read

DOUBT = Finding(check="masking", level="warning", saw="flat", means="too high", remedy="look")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    write_run(folder / "a", name="a", wrong=0.05)
    write_run(folder / "b", name="b", typical=12 / 255, seed=1)
    write_run(folder / "c", name="c", typical=7 / 255, seed=2, findings=(DOUBT,))
    return folder


def test_every_count_is_that_of_the_outcomes(runs: Path) -> None:
    found = compare([runs / "a", runs / "b"])
    (part,) = found.parts
    one, two = (read(runs / name).outcomes for name in "ab")
    assert part.kind == "worst case" and part.n == 200 and part.left_out == 0
    assert [row.eps for row in part.rows] == [None, 2 / 255, 4 / 255, 8 / 255, 16 / 255]
    for row in part.rows:
        held = [
            [o.right if row.eps is None else o.eps is None or o.eps > row.eps + 1e-12 for o in run]
            for run in (one, two)
        ]
        (against,) = row.against
        only = [sum(x and not y for x, y in zip(*pair)) for pair in (held, held[::-1])]
        assert [against.only_first, against.only_other] == only and sum(only) > 0
        assert [round(rate.value * 200) for rate in row.rates] == [sum(each) for each in held]
        expected = mcnemar(only[1], only[0], n=200)
        assert against.difference.value == pytest.approx((sum(held[1]) - sum(held[0])) / 200)
        assert (against.difference.low, against.difference.high) == (expected.difference.low, expected.difference.high)
        assert against.p_value == against.p_adjusted == expected.p_value
    assert part.headline.eps == 8 / 255
    split = part.headline.against[0]
    assert len(part.flips) == (split.only_first or 0) + (split.only_other or 0)
    right = {o.id: o.held for o in one}
    assert all(flip.right == (right[flip.id], not right[flip.id]) for flip in part.flips)


def test_several_runs_are_adjusted_together(runs: Path) -> None:
    found = compare([runs / "a", runs / "b", runs / "c"])
    row = found.parts[0].headline
    raw = [against.p_value for against in row.against]
    assert [against.p_adjusted for against in row.against] == holm(raw)  # type: ignore[arg-type]
    assert max(raw) > 1e-4 and row.against[raw.index(min(raw))].p_adjusted == 2 * min(raw)  # type: ignore[type-var]
    assert [run.doubts for run in found.runs] == [0, 0, 1]
    assert any("c: its own checks doubt" in caution.text and "masking" in caution.text for caution in found.cautions)


def test_a_run_beside_itself(runs: Path) -> None:
    found = compare([runs / "a", runs / "a"])
    assert [run.label for run in found.runs] == ["a", "a (2)"] and not found.changes and not found.parts[0].flips
    assert all(row.against[0].difference.value == 0 and row.against[0].p_value == 1 for row in found.parts[0].rows)
    assert [caution for caution in found.cautions if "a (2) is of the model" in caution.text] == list(found.cautions)
    assert verdict(found.parts[0].headline, found.parts[0].headline.against[0]) == "not told apart"


def test_a_verdict_needs_the_interval_and_the_test(runs: Path) -> None:
    row = compare([runs / "a", runs / "b"]).parts[0].headline
    test = mcnemar(5, 0, n=1000)
    assert test.difference.low > 0 and test.p_value > 0.05  # the interval alone would say better
    told = {"low": test.difference.low, "high": test.difference.high, "value": test.difference.value}
    for p, words in ((test.p_value, "not told apart"), (0.01, "better"), (None, "better")):
        against = Against(difference=Difference(**told), p_value=p, p_adjusted=p)
        assert verdict(row, against) == words
        flipped = row.model_copy(update={"higher_is_better": False})
        assert verdict(flipped, against) == words.replace("better", "worse")


def _edited(folder: Path, name: str, **changes: object) -> Path:
    """A copy of a run with other entries in its run.json."""
    copy = folder / name
    write_run(copy, name=name)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | changes))
    return copy


def test_what_changed(runs: Path, tmp_path: Path) -> None:
    info = json.loads((runs / "a" / "run.json").read_text())
    stages = [*info["stages"][:2], info["stages"][2] | {"configuration": {"steps": 50}}]
    versions = {"holdfast": "0.2.0"}
    other = _edited(tmp_path, "x", stages=stages, versions=versions, plan="slow", request={"weights": "w.pt"})
    changed = {(change.group, change.what): change.values for change in compare([runs / "a", other]).changes}
    assert changed["plan", "plan"] == ("quick", "slow")
    assert changed["plan", "stages apgd-t configuration steps"] == ("100", "50")
    assert changed["versions", "versions holdfast"] == ("0.1.0", "0.2.0")
    assert changed["versions", "versions torch"] == ("2.13.0", None)
    assert changed["configuration", "asked weights"] == (None, "w.pt")
    assert not [what for _, what in changed if "created" in what or "command" in what]


def test_another_plan_is_said_and_read_by_whether_the_model_is_the_same(runs: Path, tmp_path: Path) -> None:
    same = compare([runs / "a", _edited(tmp_path, "x", plan="slow")])
    assert any("nearer the truth" in caution.text for caution in same.cautions)
    info = json.loads((runs / "a" / "run.json").read_text())
    model = info["model"] | {"fingerprint": "n" * 64}
    other = compare([runs / "a", _edited(tmp_path, "y", plan="slow", model=model)])
    assert any("weaker one leaves more" in caution.text for caution in other.cautions)


def test_radii_that_not_all_have_are_left_out(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "x", name="x", curve=(4 / 255, 16 / 255), eps=16 / 255)
    part = compare([runs / "a", tmp_path / "x"]).parts[0]
    assert [row.eps for row in part.rows] == [None, 4 / 255, 16 / 255] and part.headline.eps == 4 / 255
    assert any("headline" in caution.text for caution in compare([runs / "a", tmp_path / "x"]).cautions)
    write_run(tmp_path / "y", name="y", curve=(3 / 255,), eps=3 / 255)
    with pytest.raises(PlanMismatch, match="no radius in common") as raised:
        compare([runs / "a", tmp_path / "y"])
    assert "--curve 2/255" in raised.value.hint


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "l2", name="l2", threat="l2")
    write_run(tmp_path / "data", name="data", data="others")
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "certify.json").write_text("{}")
    for others, error, words in (
        ([], BadValue, "needs two"),
        ([tmp_path / "l2"], PlanMismatch, "threat is linf in a and l2 in l2"),
        ([tmp_path / "data"], PlanMismatch, "others-fingerprint"),
        ([tmp_path / "nothing"], BadFile, "no run folder"),
        ([tmp_path], BadFile, "no finished run"),
        ([tmp_path / "certificates"], BadValue, "certificates"),
    ):
        with pytest.raises(error, match=words) as raised:
            compare([runs / "a", *others])
        assert raised.value.hint


def test_labels_that_differ_are_refused(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "x", name="x")
    lines = [json.loads(line) for line in (tmp_path / "x" / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["label"] = (line["label"] + 1) % 10 if line["id"] == 7 else line["label"]
    (tmp_path / "x" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadFile, match="different labels"):
        compare([runs / "a", tmp_path / "x"])


def _on(folder: Path, name: str, images: np.ndarray) -> Path:
    """A run on these images, in an .npz file beside it."""
    from holdfast.data.load import load

    write_run(folder / name, name=name, n=len(images), data=name)
    path = folder / f"{name}.npz"
    labels = np.array([r["label"] for r in map(json.loads, (folder / name / "records.jsonl").read_text().splitlines())
                       if r["stage"] == "clean"])  # fmt: skip
    np.savez(path, images=images, labels=labels)
    info = json.loads((folder / name / "run.json").read_text())
    info["data"]["fingerprint"] = load(str(path)).fingerprint()
    info["request"] = {"data": str(path)}
    (folder / name / "run.json").write_text(json.dumps(info))
    return folder / name


def test_with_restrict_the_images_that_are_equal_are_compared(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    changed = images.copy()
    changed[:10, 0, 0, 0] ^= 1
    one = _on(tmp_path, "one", images)
    two = _on(tmp_path, "two", changed)
    with pytest.raises(PlanMismatch, match="one was measured on 40 images") as raised:
        compare([one, two])
    assert "--restrict" in raised.value.hint
    (part,) = compare([one, two], restrict=True).parts
    assert (part.n, part.left_out) == (30, 10) and all(flip.id >= 10 for flip in part.flips)
    held = [outcome.held for outcome in read(one).outcomes[10:]]
    assert round(part.headline.rates[0].value * 30) == sum(held)
    np.savez(tmp_path / "two.npz", images=images, labels=np.zeros(40, dtype=np.int64))
    with pytest.raises(PlanMismatch, match="no longer those"):
        compare([one, two], restrict=True)


def _points(folder: Path) -> None:
    """The stored images of a synthetic run: one for each sample that was broken."""
    broken = [outcome for outcome in read(folder).outcomes if outcome.eps]
    points = np.random.default_rng(0).random((len(broken), 1, 8, 8), dtype=np.float32)
    ids, eps = np.array([o.id for o in broken]), np.array([o.eps for o in broken])
    save_file({"ids": ids, "eps": eps, "points": points}, folder / "points.safetensors")


def test_the_page(runs: Path, tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    write_run(tmp_path / "x", name=script, typical=12 / 255, seed=1)
    for folder in (runs / "a", tmp_path / "x"):
        _points(folder)
    found = compare([runs / "a", tmp_path / "x"])
    text = write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    split = found.parts[0].headline.against[0]
    assert f"still gets {split.only_other} right" in text and f"and loses {split.only_first} " in text
    assert "is better than a" in text and f"{len(found.parts[0].flips)} images on which the runs disagree" in text
    assert text.count("as it broke a") > 3 and text.count(">held<") > 3 and ", clean" in text
    assert write_comparison(found, tmp_path / "d.html").read_text(encoding="utf-8") == text
    (tmp_path / "x" / "points.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no header at all")
    with pytest.raises(BadFile, match="damaged"):
        write_comparison(found, tmp_path / "e.html")


def test_the_command(cli, runs: Path, tmp_path: Path) -> None:
    ran = cli("compare", runs / "a", runs / "b", "--out", tmp_path / "c.html")
    assert ran.code == 0 and "robust accuracy at 8/255" in ran.out and "wrong in A, right in B" in ran.out
    assert (tmp_path / "c.html").exists()
    told = json.loads(cli("compare", runs / "a", runs / "b", "--json").out)
    assert told == json.loads(compare([runs / "a", runs / "b"]).model_dump_json())
    refused = cli("compare", runs / "a")
    assert refused.code == 2 and "hint" in refused.err
