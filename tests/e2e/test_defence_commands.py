"""`holdfast audit --defence` and `holdfast explain mixup`, as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from holdfast.audit.defended import run

SMALL = ("--option", "width=4", "--option", "hidden=32")
QUICK = ("--eps", "0.1", "--limit", 16, "--steps", 3, "--restarts", 1, "--evaluations", 4, "--tries", 2)


@pytest.fixture
def net(digits_net: Path, tmp_path: Path, monkeypatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "QUERIES", 10)
    return ("--model", "net:small_cnn", "--weights", str(digits_net), *SMALL)


def test_a_defence_is_audited_shown_and_read_again(net: tuple[str, ...], cli) -> None:
    options = ("--defence-option", "mode=combined", "--defence-option", "false_alarms=0.1", "--pool-per-class", 5)
    command = ("audit", *net, *QUICK, "--budgets", 1, 2, "--defence", "mixup_inference", "--pool", "digits", *options)
    ran = cli(*command, "--out", "run")
    assert ran.code == 0, ran.err
    for part in ("undefended", "oblivious attack", "adaptive attack", "worst of 2", "fixed seed", "upper bound"):
        assert part in ran.out
    assert "over the undefended model" in ran.out and "holds  large radius" in ran.out and "defence: " in ran.err
    page = Path("run/report.html").read_text()
    assert 'id="defended"' in page and "held-out clean images" in page and "digits:train" in page
    again = cli(*command, "--out", "run", "--json", "-q")
    told = json.loads(again.out)["defence"]
    assert not again.err and told["n"] == 16 and told["defence"] == "mixup_inference"
    assert told == json.loads(Path("run/defended/summary.json").read_text())
    asked = json.loads(Path("run/defended/run.json").read_text())
    assert asked["note"].startswith("tau flags") and asked["request"]["defence_options"]["mode"] == "combined"
    assert cli("report", "run", "--out", "again.html").code == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--defence", "bn_adaptation"), "--adapt bn_adaptation"),
        (("--defence", "gaussian_nois"), "gaussian_noise"),
        (("--defence", "gaussian_noise", "--defence-option", "sigmas=1"), "sigma"),
        (("--defence", "gaussian_noise", "--pool", "digits"), "leave --pool out"),
        (("--defence", "mixup_inference"), "--pool"),
        (("--defence", "mixup_inference", "--pool", "digits:test"), "training split"),
        (("--defence", "jpeg_compression", "--plan", "standard"), "leave plan out"),
        (("--budgets", "1", "5"), "--defence"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(given, says: str, net: tuple[str, ...], cli) -> None:
    ran = cli("audit", *net, "--eps", "0.1", "--limit", 16, *given, "--out", "run")
    assert ran.code == 2 and says in ran.err and not Path("run").exists(), ran.err


def test_the_theory_of_mixup_is_drawn_and_printed(net: tuple[str, ...], cli) -> None:
    command = ("explain", "mixup", *net, "--eps", "0.1", "--limit", 20, "--lam", 0.5, 1, "--num-draws", 3)
    ran = cli(*command, "--pool", "digits", "--pool-per-class", 4, "--out", "told")
    assert ran.code == 0, ran.err
    assert (
        "MI-OL" in ran.out and "recovered" in ran.out and "right when clean and wrong after PGD of 10 steps" in ran.out
    )
    rows = list(csv.DictReader(Path("told/table.csv").read_text().splitlines()))
    assert {row["mode"] for row in rows} == {"pl", "ol"} and {row["lam"] for row in rows} == {"0.5", "1.0"}
    clean = [[float(row[key]) for key in ("low", "value", "high")] for row in rows if row["quantity"] == "F_y clean"]
    assert len(clean) == 4 and all(low <= value <= high and 0 <= value <= 1 for low, value, high in clean)
    assert Path("told/figure.svg").read_text().startswith("<svg") and Path("told/figure.png").stat().st_size > 10_000
    ran = cli(*command)
    assert ran.code == 2 and "--pool" in ran.err
