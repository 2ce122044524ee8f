"""Certified and empirical curves: of a linear model, whose smoothed radius is known; resumed, contradicted, shown."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks_fixture import Thread, at_once
from safetensors.torch import save_file
from torch import Tensor, nn

from holdfast.audit.certified import pursue, run
from holdfast.audit.certified.api import SmoothingAudit, audit_smoothing, describe_certified, evaluate_certified
from holdfast.audit.certified.conclude import certified_right, contradictions, holds
from holdfast.audit.certified.question import Pursuit, Question, fewest, grid
from holdfast.audit.certified.run import at_most
from holdfast.data.arrays import from_pair
from holdfast.defences.certificate import ABSTAINS, radius_of
from holdfast.foundation.errors import BadModel, BadValue, HoldfastError, Incomplete, PlanMismatch
from holdfast.models.load import load
from holdfast.records.certified import (
    ATTACKS,
    CERTIFICATES,
    Attacked,
    Certified,
    CertifySummary,
    read_attacked,
    read_certify_summary,
)
from holdfast.records.part import OUTCOMES, SHARDS
from holdfast.report.certified import CERTIFIED, UNKNOWN, as_csv, figure

SIGMA, RADII = 0.15, (0.0, 0.1, 0.2, 0.3)
DISTANCES = np.array([0.05, -0.05, 0.15, -0.15, 0.25, -0.25, 0.24, -0.35, 0.45, -0.05])
LABELS = (DISTANCES > 0).astype(np.int64)
LABELS[-1] = 1  # one that is classified wrongly
EFFORT = {"steps": 5, "draws": 4}


class Linear(nn.Module):
    """Class 1 where the mean of four by four values exceeds 1/2: four times what it exceeds it by away from there, in L2."""

    def __init__(self, scale: float = 40.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        far = self.scale * (x - 0.5).flatten(1).sum(1) / 4
        return torch.stack([-far, far], 1)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pursue, "HELD_OUT", 8)
        patched.setattr(pursue, "SCALE", 2)
        yield


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images whose L2 distance from the boundary is that of `DISTANCES`, far inside the box."""
    return np.broadcast_to((0.5 + DISTANCES / 4)[:, None, None, None], (len(LABELS), 1, 4, 4)).astype(
        np.float32
    ), LABELS


def certified(**more) -> SmoothingAudit:
    return audit_smoothing(Linear(), data(), **{"sigma": SIGMA, "estimate": 2000, "radii": RADII} | EFFORT | more)


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> SmoothingAudit:
    return certified(out=tmp_path_factory.mktemp("runs") / "linear")


def lines(folder: Path, part: str) -> bytes:
    return (folder / part / OUTCOMES).read_bytes()


def test_both_curves_of_a_linear_model_close_in_on_the_known_one(linear: SmoothingAudit) -> None:
    right = (DISTANCES > 0) == LABELS
    known = [float((right & (np.abs(DISTANCES) > radius)).mean()) for radius in RADII]
    for point, share in zip(linear.summary.curve, known):
        assert point.attacked and point.undefended
        assert point.certified.value <= share == point.attacked.value == point.undefended.value
        assert point.attacked.n == len(LABELS) and point.attacked.low < share < point.attacked.high
    assert [point.certified.value for point in linear.summary.curve] == known, "no distance is within 0.02 of a radius"
    assert not linear.summary.contradictions


def test_a_certificate_is_just_below_the_distance(linear: SmoothingAudit) -> None:
    radius = np.array([line.radius for line in linear.certificates])
    short = np.minimum(np.abs(DISTANCES), linear.summary.asked.largest) - radius
    assert (short > -1e-7).all() and (short < 0.05).all()
    assert [line.certified for line in linear.certificates] == (DISTANCES > 0).astype(int).tolist()
    assert linear.summary.reach == tuple(sorted(line.radius for line in linear.certificates[:-1]))


def test_more_draws_certify_closer_to_the_distance() -> None:
    for estimate, most in ((200, 0.15), (20_000, 0.015)):
        found = certified(estimate=estimate, attack=False)
        far = np.minimum(np.abs(DISTANCES), found.summary.asked.largest)
        short = far - [each.radius for each in found.certificates]
        assert (short > -1e-7).all() and short[far < 0.4].max() < most


def test_points_lie_within_their_radius_and_stay_once_they_are_wrong(linear: SmoothingAudit) -> None:
    assert linear.folder
    for line in read_attacked(linear.folder):
        assert all(far <= radius * (1 + 1e-6) for far, radius in zip(line.distances, RADII))
        broken = next((place for place, said in enumerate(line.answers) if said == 1 - line.label), len(RADII) - 1)
        assert set(line.answers[broken:]) == {line.answers[broken]}
        assert set(line.distances[broken:]) == {line.distances[broken]}


def test_costs_are_said_before_they_are_counted(linear: SmoothingAudit) -> None:
    forwards, gradients = at_most(Question(SIGMA, estimate=2000, radii=RADII, attack=Pursuit(**EFFORT)), len(LABELS))
    assert 0.5 * forwards < linear.summary.forwards <= forwards
    assert 0.3 * gradients < linear.summary.gradients <= gradients


def test_a_stopped_run_goes_on_to_the_same_lines(linear: SmoothingAudit, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "TOGETHER", 4)
    monkeypatch.setattr(run, "GATHERED", 4)
    whole = certified(out=tmp_path / "whole")
    for last in (3, 9, 12):  # amid the certificates, again, amid the attack

        def stop(progress, last: int = last) -> None:
            if progress.done >= last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            certified(out=tmp_path / "parts", watch=stop)
    with (tmp_path / "parts" / ATTACKS / OUTCOMES).open("ab") as file:
        file.write(b'{"id": 5, "lab')
    parts = certified(out=tmp_path / "parts")
    for part in (CERTIFICATES, ATTACKS):
        assert lines(tmp_path / "parts", part) == lines(tmp_path / "whole", part)
    same = {"asked", "seconds"}
    assert parts.summary.model_dump(exclude=same) == whole.summary.model_dump(exclude=same)
    # and other batches than those of the fixture gave the same answers
    assert whole.summary.curve == linear.summary.curve and whole.certificates == linear.certificates


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_images(world: int, linear: SmoothingAudit, tmp_path: Path, monkeypatch) -> None:
    """One of them dies, and all of them go on."""
    monkeypatch.setattr(run, "TOGETHER", 3)
    monkeypatch.setattr(run, "GATHERED", 3)
    whole = certified(out=tmp_path / "whole")
    asked = Question(SIGMA, estimate=2000, radii=RADII, attack=Pursuit(**EFFORT))
    source, dead = from_pair(*data()), threading.Event()

    def work(ranks: Thread, watch=None) -> CertifySummary:
        model = load(Linear(), shape=(1, 4, 4))
        info = describe_certified(model, source, asked)
        return evaluate_certified(model, source, asked, info, tmp_path / "shared", watch=watch, ranks=ranks)

    def dying(ranks: Thread) -> CertifySummary:
        def watch(progress) -> None:
            if ranks.rank == 1:
                dead.set()
                raise KeyError("it dies")
            assert dead.wait(60)

        return work(ranks, watch)

    died = at_once(world, dying)
    assert isinstance(died[1], KeyError) and isinstance(died[0], Incomplete), died
    assert [*(tmp_path / "shared").glob(f"*/{SHARDS}")]
    steps = []
    found = at_once(world, lambda ranks: work(ranks, None if ranks.rank else steps.append))
    assert found == [found[0]] * world and steps[-1].done == steps[-1].total == 2 * len(LABELS)
    for part in (CERTIFICATES, ATTACKS):
        one, other = (sorted(lines(tmp_path / name, part).splitlines()) for name in ("shared", "whole"))
        assert one == other
        assert {each.name for each in (tmp_path / "shared" / part).iterdir()} == {"run.json", OUTCOMES}
    same = {"asked", "seconds"}
    assert found[0].model_dump(exclude=same) == whole.summary.model_dump(exclude=same)


def test_any_batch_attacks_alike() -> None:
    asked = Question(SIGMA, radii=RADII, attack=Pursuit(**EFFORT))
    x, y = (torch.from_numpy(np.ascontiguousarray(each[:4])) for each in data())
    ids = torch.arange(len(y)) + 7
    whole = pursue.pursued(Linear(), x, y, ids, asked)
    single = [pursue.pursued(Linear(), *(each[i : i + 1] for each in (x, y, ids)), asked)[0] for i in range(len(y))]
    for one, other in zip(whole, single):
        assert one.model_dump(exclude={"distances"}) == other.model_dump(exclude={"distances"})
        assert one.distances == pytest.approx(other.distances, rel=1e-5)


def test_a_finished_run_is_only_read(linear: SmoothingAudit, monkeypatch) -> None:
    assert linear.folder
    monkeypatch.setattr(run, "certify", None)
    monkeypatch.setattr(run, "pursued", None)
    assert certified(out=linear.folder).summary == linear.summary == read_certify_summary(linear.folder)


def test_a_folder_of_another_question_is_refused(linear: SmoothingAudit) -> None:
    before = lines(linear.folder, CERTIFICATES)
    for other in ({"sigma": 0.2}, {"seed": 1}, {"estimate": 3000}, {"radii": (0, 0.1)}, {"early_stop": True}):
        with pytest.raises(PlanMismatch, match=next(iter(other)) if "early_stop" not in other else "decided"):
            certified(out=linear.folder, **other)
    with pytest.raises(PlanMismatch, match="attack"):
        certified(out=linear.folder, steps=6)
    assert lines(linear.folder, CERTIFICATES) == before


def test_what_is_broken_within_its_certificate_is_a_contradiction(tmp_path: Path) -> None:
    """Certificates of an honest run are written too large; the attack that follows finds those that it can reach."""
    alone = certified(out=tmp_path / "r", attack=False)
    assert alone.summary.curve[0].attacked is None and alone.summary.gradients == 0
    path = tmp_path / "r" / CERTIFICATES / OUTCOMES
    forged = [json.loads(line) | {"radius": 0.35} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in forged))
    found = certified(out=tmp_path / "r").summary
    reachable = [key for key, far in enumerate(DISTANCES[:-1]) if abs(far) < 0.3]
    assert [each.id for each in found.contradictions if each.distance > 0] == reachable
    for each in found.contradictions:
        assert each.found == 1 - each.certified and each.distance <= each.radius == 0.35


def test_certified_and_not_right_is_contradicted_whatever_the_answers() -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        label, radius = int(draw.integers(3)), float(draw.choice([0, 0.1, 0.15, 0.2, 0.4]))
        certificate = Certified(
            id=0, label=label, certified=int(draw.integers(-1, 3)), radius=radius, votes=9, draws=9, undefended=0
        )
        answers = tuple(draw.integers(-1, 3, len(RADII)).tolist())
        attack = Attacked(
            id=0, label=label, answers=answers, distances=RADII, undefended=answers, forwards=1, gradients=1
        )
        seen = holds(certificate, attack, RADII)
        assert sorted(seen, reverse=True) == seen
        broken = contradictions(certificate, attack, RADII)
        over = any(certified_right(certificate, far) and not held for far, held in zip(RADII, seen))
        assert not over or broken
        if ABSTAINS not in answers and certificate.certified == label:
            assert over == bool(broken)


def test_an_abstention_counts_as_right_within_the_certificate_alone() -> None:
    certificate = Certified(id=0, label=1, certified=1, radius=0.15, votes=9, draws=9, undefended=1)
    attack = Attacked(
        id=0, label=1, answers=(1, -1, -1, 1), distances=RADII, undefended=(1,) * 4, forwards=1, gradients=1
    )
    assert holds(certificate, attack, RADII) == [True, True, False, False]


def test_stopping_early_certifies_radii_with_fewer_draws() -> None:
    found = certified(early_stop=True, estimate=20_000, attack=False)
    exact = [max([radius for radius in RADII if radius < abs(far)]) for far in DISTANCES]
    assert [line.radius for line in found.certificates] == exact
    assert found.summary.forwards < 10 * 20_000 / 4 and found.summary.asked.decided == RADII


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"sigma": 0}, "sigma is 0"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"alpha": 0.5}, "alpha is 0.5"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"radii": (0.2, 0.1)}, "must increase"),
        ({"radii": (-0.1, 0.1)}, "must increase"),
        ({"radii": (0.1, math.nan)}, "must increase"),
        ({"estimate": 9}, "10 is the smallest number that certifies anything"),
        ({"estimate": 100, "radii": (0.0, 0.5)}, "certify a radius of 0.375 at most"),
        ({"radii": (0.0, 2.5)}, "no number of draws shows 2.5"),
        ({"radii": (0.0, 1.99)}, "no number of draws shows 1.99"),
        ({"radii": (0.0, 1.99), "early_stop": True}, "no number of draws shows 1.99"),
        ({"estimate": 5, "early_stop": True}, "is the smallest number"),
        ({"predict": 10}, "11 is the smallest useful number"),
    ],
)
def test_bad_questions_are_refused_with_a_remedy(more: dict, says: str) -> None:
    with pytest.raises(HoldfastError, match=says):
        audit_smoothing(Linear(), data(), **{"sigma": 0.25} | more)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.25, 0.6])
def test_the_fewest_draws_are_enough_and_one_less_is_not(early: bool, radius: float) -> None:
    asked = Question(0.25, early_stop=early)
    enough = fewest(radius, asked)
    assert enough is not None
    radii = (radius,) if radius else ()
    assert Question(0.25, estimate=enough, radii=radii, early_stop=early).largest >= radius
    with pytest.raises(BadValue, match=str(enough)):
        Question(0.25, estimate=enough - 1, radii=radii, early_stop=early)


@pytest.mark.parametrize("largest", [0.0061, 0.3, 0.7998, 1.0, 3.81])
def test_the_grid_ends_just_beyond_the_largest_radius(largest: float) -> None:
    found = grid(largest)
    assert 6 <= len(found) <= 8 and found[0] == 0 and found[-2] <= largest < found[-1]
    assert np.allclose(np.diff(found), found[1])
    assert Question(0.25).radii == grid(radius_of(10_000, 10_000, sigma=0.25, alpha=0.001))


def test_a_model_that_cannot_be_attacked_may_still_be_certified() -> None:
    class Steps(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sign().detach()

    with pytest.raises(BadModel, match="no-attack"):
        audit_smoothing(Steps(), data(), sigma=SIGMA)
    assert (
        audit_smoothing(Steps(), data(), sigma=SIGMA, estimate=200, attack=False).summary.curve[0].certified.value > 0
    )


def test_a_model_that_noise_blinds_is_called_unsuited(linear: SmoothingAudit) -> None:
    assert "unsuited model" not in [each.check for each in linear.summary.warnings]
    images = np.random.default_rng(0).random((40, 1, 4, 4)).astype(np.float32)
    x = torch.from_numpy(images)

    class Frail(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.sin(60 * x.flatten(1).sum(1)), torch.zeros(len(x))], 1)

    found = audit_smoothing(
        Frail(), (images, Frail()(x).argmax(1).numpy()), sigma=0.5, estimate=300, attack=False
    ).summary
    (warning,) = [each for each in found.warnings if each.check == "unsuited model"]
    assert f"{100 * found.refused.value:.1f} % of images get no certificate" in warning.saw
    assert (
        "100.0 % are right without noise" in warning.saw
        and "--recipe smoothing --set options.sigma=0.5" in warning.remedy
    )
    assert found.refused.value > 0.5


def test_the_figure_and_the_table_hold_the_numbers(linear: SmoothingAudit) -> None:
    spec = figure(linear.summary).to_dict()
    drawn = [row for rows in spec["datasets"].values() for row in rows]
    last = [row for row in drawn if row.get("curve") == CERTIFIED and row["radius"] == 0.2 and "low" in row]
    assert {row["value"] for row in last} == {linear.summary.curve[2].certified.value}
    assert all(row["low"] <= row["high"] for row in drawn if row.get("curve") == UNKNOWN)
    rows = as_csv(linear.summary).decode().splitlines()
    assert rows[0] == "radius,curve,value,low,high,n" and len(rows) == 1 + 4 * len(RADII)
    alone = linear.summary.model_copy(
        update={
            "curve": tuple(
                each.model_copy(update={"attacked": None, "undefended": None}) for each in linear.summary.curve
            )
        }
    )
    assert "unknown" not in json.dumps(figure(alone).to_dict())


@pytest.fixture
def command(tmp_path: Path, monkeypatch) -> list[str]:
    """``holdfast certify`` of `Linear` on `data`, as far as every test needs it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    images, labels = data()
    np.savez("data.npz", images=np.round(images * 255).astype(np.uint8), labels=labels)
    save_file(Linear().state_dict(), "linear.safetensors")
    asked = ["certify", "--model", f"{__name__.rpartition('.')[2]}:Linear", "--weights", "linear.safetensors"]
    asked += ["--data", "data.npz", "--sigma", "0.15", "--estimate", "1000", "--radii", "0", "0.1", "0.2", "--out", "r"]
    return [*asked, "--steps", "4", "--draws", "3"]


def test_the_command_writes_everything_and_goes_on(command: list[str], cli, tmp_path: Path) -> None:
    done = cli(*command)
    assert done.code == 0, done.err
    assert {"certify.json", "table.csv", "figure.svg", "figure.png", "report.html"} <= {
        path.name for path in Path("r").iterdir()
    }
    assert "at most" in done.err and "forwards" in done.err and "can be certified" in done.err
    assert "under attack, %" in done.out and "neither certified nor broken" in done.out
    again = cli(*command, "--json", "-q")
    assert again.code == 0 and again.err == ""
    found = CertifySummary.model_validate_json(again.out)
    assert found == read_certify_summary(tmp_path / "r") and found.n == 10 and not found.contradictions
    assert found.asked.command and found.asked.model.fingerprint and found.asked.versions["torch"]


def test_a_contradiction_comes_first_and_ends_with_3(command: list[str], cli, monkeypatch) -> None:
    monkeypatch.setattr("holdfast.report.charts.save_png", lambda *_: None)  # slow, and no part of this
    assert cli(*command, "--no-attack").code == 2, "effort of an attack that is not wanted"
    alone = [*command[: command.index("--steps")], "--no-attack"]
    done = cli(*alone)
    assert done.code == 0 and "under attack" not in done.out
    path = Path("r") / CERTIFICATES / OUTCOMES
    lines = [json.loads(line) | {"radius": 0.2} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli(*command)
    assert done.code == 3 and done.out.startswith("CONTRADICTION image 0 is certified as class 1 within 0.2")
    assert "of 10 images; at most" in done.out


def test_bad_input_is_refused_before_the_model_is_loaded(cli) -> None:
    asked = ("certify", "--model", "missing:net", "--sigma")
    for more, says in (
        (("0",), "sigma"),
        (("0.25", "--alpha", "0.7"), "alpha"),
        (("0.25", "--estimate", "5"), "10 is"),
    ):
        done = cli(*asked, *more)
        assert done.code == 2 and says in done.err and "hint" in done.err and "missing" not in done.err
