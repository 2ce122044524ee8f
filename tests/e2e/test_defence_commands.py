"""`holdfast audit --defence` and `holdfast explain --probe mixup`, as a user types them."""

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
    settings = [f"mixup.{each}" for each in ("lam=[0.5, 1]", "num_draws=3", "per_class=4")]
    asked = (
        "explain",
        *net,
        "--probe",
        "mixup",
        "--eps",
        "0.1",
        "--limit",
        20,
        *(p for s in settings for p in ("--set", s)),
    )
    ran = cli(*asked, "--out", "told")
    assert ran.code == 0, ran.err
    assert "recovered" in ran.out and "MI-OL, partners of the others: mixing repairs at most" in ran.out
    for number in (1, 2):  # of MI-PL and of MI-OL
        rows = list(csv.DictReader(Path(f"told/mixup/table_{number}.csv").read_text().splitlines()))
        assert [row["lam"] for row in rows if row["net"] == "model"] == ["0.5", "1.0"]
        assert all(0 <= float(row["F_y clean"]) <= 1 and 0 <= float(row["recovered: low"]) <= 1 for row in rows)
    folder = Path("told/mixup")
    assert (folder / "mixing_1.svg").read_text().startswith("<svg") and (
        folder / "mixing_1.png"
    ).stat().st_size > 10_000
    ran = cli(*asked, "--data", "digits:test", "--out", "alone")  # without a part to learn from
    assert ran.code == 2 and "--train" in ran.err and not Path("alone").exists()
