"""The experiments: each runs end to end at its smallest, none does anything twice, and what they say is what they saw."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.load import load
from holdfast.experiments import equal_time
from holdfast.experiments.configure import configured
from holdfast.experiments.lab import Lab
from holdfast.experiments.outcome import Column, Outcome, Verdict, head, seeds, shown
from holdfast.experiments.write import WRITTEN, comma_separated
from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile, BadValue, PlanMismatch, UnknownName
from holdfast.foundation.stats import Interval, wilson
from holdfast.training import run
from holdfast.training.loop import Trainer

TINY = ("images=36", "steps=2", "batch_size=20", "test_images=10", "plan=sweep", "options.width=2", "options.hidden=8")
"""The smallest that an experiment runs with: two steps a net, which learns nothing."""

OWN = {
    "equal_time": ("replays=2", "steps=1"),
    "extra_class": ("attack_steps=1", "judge_steps=2", "restarts=2"),
    "fgsm_collapse": (),
    "robust_overfitting": ("attack_steps=1",),
    "small_data": ("sizes=[18, 27]", "radii=[0, 0.5]", "num_seeds=2", "attack_steps=1"),
    "training_eps": ('linf=["8/255"]', "l2=[0.5]", "attack_steps=1"),
}

COLUMNS = {
    "equal_time": ["method", "passes a step", "steps", "passes", "time", "clean", "robust"],
    "extra_class": ["images", "right", "alarm", "wrong and no alarm"],
    "fgsm_collapse": ["trained on", "clean", "FGSM", "robust", "first alarm"],
    "robust_overfitting": ["weights", "epoch", "robust on training images", "clean", "robust"],
    "small_data": ["images", "training eps", "clean", "gain over eps 0"],
    "training_eps": ["threat", "training eps", "clean", "robust"],
}

ROWS = {
    "equal_time": ["pgd", "trades", "free", "rs_fgsm", "n_fgsm"],
    "extra_class": [
        *("clean images", "uniform noise", "PGD-2 of a standard net"),
        *("PGD-2, ignoring the class", "PGD-2, knowing it, 2 starts"),
    ],
    "fgsm_collapse": ["standard", "fgsm", "fgsm-repaired", "n_fgsm", "pgd"],
    "robust_overfitting": ["best", "last"],
    "small_data": [18, 18, 27, 27],
    "training_eps": ["linf", "linf", "l2", "l2"],
}


def small(part: str, n: int) -> Arrays:
    """Digits of 8 pixels a side."""
    source = load(f"digits:{part}")
    images, labels = source.take(source.ids[:n])
    return from_pair(images[:, :, 2::4, 2::4], labels, name=f"small:{part}", class_names=source.class_names)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(small("train", 60), small("test", 20), tmp_path)


def tiny(name: str, *more: str):
    return configured(name, pairs=(*TINY, *OWN[name], *more))


def test_all_of_them_are_tested() -> None:
    elsewhere = {"mixup_inference"}  # tests/unit/test_experiment_mixup.py
    assert set(OWN) == set(COLUMNS) == set(registry.names("experiment")) - elsewhere


@pytest.mark.parametrize("name", OWN)
def test_it_runs_end_to_end(name: str, lab: Lab, monkeypatch) -> None:
    monkeypatch.setattr(equal_time, "TIMED", 1)
    seen: list[tuple[int, int]] = []
    lab = Lab(lab.train, lab.test, lab.out, progress=lambda what, done, total: seen.append((done, total)))
    outcome = tiny(name).run(lab)
    assert [column.name for column in outcome.columns] == COLUMNS[name]
    assert all(len(row) == len(outcome.columns) for row in outcome.rows)
    assert [row[0] for row in outcome.rows] == ROWS.get(name, [row[0] for row in outcome.rows])
    shares = [cell for row in outcome.rows for cell in row if isinstance(cell, Interval)]
    assert shares and all(cell.n > 1 and cell.low <= cell.value <= cell.high for cell in shares)
    assert seen == sorted(seen) and seen[-1] == (100, 100)
    assert outcome.verdict.seen and "95 %" in outcome.caption and outcome.chart.to_dict()


def test_killed_in_the_middle_it_goes_on(lab: Lab, tmp_path: Path, monkeypatch) -> None:
    asked = tiny("training_eps")
    whole = asked.run(Lab(lab.train, lab.test, tmp_path / "whole"))
    step, taken = Trainer.step, 0

    class Killed(BaseException):
        pass

    def counted(self: Trainer):
        nonlocal taken
        taken += 1
        if taken == 4:  # in the second of three trainings
            raise Killed
        return step(self)

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
    torn = Lab(lab.train, lab.test, tmp_path / "torn")
    with pytest.raises(Killed):
        asked.run(torn)
    resumed = asked.run(torn)
    assert taken == 1 + 3 * 2 and resumed.rows == whole.rows
    again = asked.run(torn)
    assert taken == 1 + 3 * 2 and again.rows == whole.rows and again.verdict == whole.verdict


def test_a_folder_of_another_experiment_is_refused(lab: Lab) -> None:
    tiny("robust_overfitting").run(lab)
    with pytest.raises(PlanMismatch, match="its lr is"):
        tiny("robust_overfitting", "lr=0.01").run(lab)


def test_settings_come_from_a_file_and_pairs_win(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    path.write_text('net = "preact_resnet18"\neps = "8/255"\nsteps = 10\n[settings]\noptimiser = "sgd"\nflip = true\n')
    found = configured("fgsm_collapse", path, ["steps=20", "settings.shift=4", "options.widths=[4, 8]"])
    assert (found.net, found.steps, found.options) == ("preact_resnet18", 20, {"widths": [4, 8]})
    assert getattr(found, "eps") == 8 / 255 and found.settings == {"optimiser": "sgd", "flip": True, "shift": 4}  # noqa: B009


@pytest.mark.parametrize(
    ("name", "pairs", "error", "says"),
    [
        ("fgsm_colapse", [], UnknownName, "did you mean fgsm_collapse"),
        ("fgsm_collapse", ["step=3"], UnknownName, "did you mean steps"),
        ("fgsm_collapse", ["settings.epoch=3"], UnknownName, "did you mean epochs"),
        ("fgsm_collapse", ["eps=lots"], BadValue, "eps"),
        ("fgsm_collapse", ["steps=many"], BadValue, "steps is 'many'"),
        ("fgsm_collapse", ["lr=0"], BadValue, "lr is 0"),
        ("fgsm_collapse", ["settings.momentum=big"], BadValue, "the recipe cannot be made"),
        ("small_data", ["radii=[1.0]"], BadValue, "radii is"),
        ("small_data", ["num_seeds=1"], BadValue, "num_seeds is 1"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, pairs: list[str], error: type, says: str, lab: Lab) -> None:
    with pytest.raises(error, match=says):
        configured(name, pairs=pairs).run(lab)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="does not exist"):
        configured("fgsm_collapse", tmp_path / "none.toml")
    (tmp_path / "torn.toml").write_text("steps = ")
    with pytest.raises(BadFile, match="cannot be read"):
        configured("fgsm_collapse", tmp_path / "torn.toml")


def test_the_mean_over_seeds_has_students_interval() -> None:
    found = seeds([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert np.allclose([found.value, found.low, found.high], [0.2, 0.2 - half, 0.2 + half]) and found.n == 3
    assert seeds([0.5]).high == math.inf
    with pytest.raises(BadValue):
        seeds([])


def test_cells_in_words() -> None:
    share, time = Column("robust"), Column("time", "s", 0)
    assert (head(share, wilson(5, 10)), shown(share, wilson(5, 10))) == ("robust, %", "50.0 (23.7 to 76.3)")
    assert shown(share, seeds([0.5])) == "50.0" and (head(time, 1234.5), shown(time, 1234.5)) == ("time, s", "1,234")
    assert shown(Column("steps"), 1500) == "1,500" and shown(Column("name"), "pgd") == "pgd"


def test_the_table_as_csv() -> None:
    columns = Column("name"), Column("robust"), Column("time", "s")
    outcome = Outcome("", columns, (("a", wilson(5, 10), 1.5), ("b", "", 2.5)), None, Verdict(True, ""))
    rows = list(csv.reader(comma_separated(outcome).splitlines()))
    assert rows[0] == ["name", "robust", "robust: low", "robust: high", "robust: n", "time, s"]
    assert rows[1][1] == "0.5" and rows[1][4] == "10" and float(rows[1][2]) == wilson(5, 10).low
    assert rows[2] == ["b", "", "", "", "", "2.5"]


def test_the_command(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", **dict(zip(("images", "labels"), small("train", 60).take(np.arange(60)))))
    np.savez("test.npz", **dict(zip(("images", "labels"), small("test", 20).take(np.arange(20)))))
    settings = [part for pair in (*TINY, *OWN["robust_overfitting"]) for part in ("--set", pair)]
    asked = ("experiment", "robust_overfitting", "--data", "train.npz", "--test", "test.npz", "--out", "o", *settings)
    ran = cli(*asked)
    assert ran.code == 0, ran.err
    assert "Rice et al. 2020" in ran.out and "The shape was" in ran.out and "n" in ran.out and "100/100" in ran.err
    assert {path.name for path in Path("o").iterdir()} == {*WRITTEN, "pgd"}
    info = json.loads(Path("o/experiment.json").read_text())
    assert info["name"] == "robust_overfitting" and info["configuration"]["images"] == 36
    assert info["train"]["n"] == 60 and len(info["train"]["fingerprint"]) == 16 and info["versions"]["torch"]
    assert "| best | 1 |" in Path("o/table.md").read_text() and Path("o/figure.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("o/figure.svg").read_text().startswith("<svg")
    assert cli(*asked, "--set", "step=1").code == 2
