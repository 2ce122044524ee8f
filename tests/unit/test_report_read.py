"""Reading a run folder: what the records mean, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_fixture import write_run
from safetensors.numpy import save_file

from holdfast.foundation.errors import BadFile
from holdfast.report.read import read


def test_a_sample_counts_as_broken_at_every_larger_radius(tmp_path):
    summary = write_run(tmp_path, n=300)
    run = read(tmp_path)
    for point in summary.curve:
        held = sum(outcome.eps is None or outcome.eps > point.eps for outcome in run.outcomes)
        assert held == round(point.robust_accuracy.value * 300)
    assert all((outcome.margin < 0) == (not outcome.held) for outcome in run.outcomes)


def test_records_of_single_searches_are_ignored(tmp_path):
    write_run(tmp_path / "with", searches=True)
    write_run(tmp_path / "without", searches=False)
    assert read(tmp_path / "with").outcomes == read(tmp_path / "without").outcomes


def test_a_tie_is_broken_and_infinite_margins_are_set_aside(tmp_path):
    write_run(tmp_path, n=2, typical=0, wrong=0.0)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["final"]:
            line["margin"] = float("inf") if line["id"] == 1 else (0.0 if line["fooled"] else 3.0)
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read(tmp_path).outcomes
    assert first.margin is not None and first.margin < 0
    assert second.margin is None and not second.held


@pytest.mark.parametrize("name", ["run.json", "summary.json", "records.jsonl"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "binary", "list"])
def test_damaged_files_are_named(tmp_path, name, damage):
    write_run(tmp_path, n=20)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "binary": b"\xff\xfe\x00\n" * 9, "list": b"[1]\n"}[
                damage
            ]
        )
    with pytest.raises(BadFile, match=name) as caught:
        read(tmp_path)
    assert caught.value.hint


def test_a_torn_last_line_is_passed_over_unless_it_counts(tmp_path):
    write_run(tmp_path, n=20, typical=12 / 255)
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + lines[-1][:30])
    assert len(read(tmp_path).outcomes) == 20
    last = max(place for place, line in enumerate(lines) if '"fooled":true' in line and '"final":true' in line)
    path.write_text("".join(lines[:last]) + lines[last][:30])
    with pytest.raises(BadFile, match=r"by records\.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_newer_schema_asks_for_an_update(tmp_path, name):
    write_run(tmp_path, n=5)
    content = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**content, "schema_version": 2, "new": 1}))
    with pytest.raises(BadFile, match="newer holdfast") as caught:
        read(tmp_path)
    assert "upgrade" in caught.value.hint


def test_a_damaged_line_is_given_by_its_number(tmp_path):
    write_run(tmp_path, n=5)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"label"', '"lable"')
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadFile, match=r"line 3 of .*records\.jsonl"):
        read(tmp_path)


def test_records_and_summary_must_agree(tmp_path):
    write_run(tmp_path, n=20)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    (tmp_path / "records.jsonl").write_text("\n".join(line for line in lines if not line.startswith('{"id":7,')))
    with pytest.raises(BadFile, match="20 samples"):
        read(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"ids": np.zeros(1, np.int64)},
        {"ids": np.zeros(2, np.int64), "clean": np.zeros((1, 1, 2, 2)), "adversarial": np.zeros((1, 1, 2, 2))},
        {"ids": np.full(1, 999), "clean": np.zeros((1, 1, 2, 2)), "adversarial": np.zeros((1, 1, 2, 2))},
        None,
    ],
)
def test_a_damaged_gallery_is_refused(tmp_path, tensors):
    write_run(tmp_path, n=5)
    path = tmp_path / "gallery.safetensors"
    if tensors is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(tensors, path)
    with pytest.raises(BadFile, match=r"gallery\.safetensors"):
        read(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(BadFile, match="there is no run folder"):
        read(tmp_path / "nowhere")
