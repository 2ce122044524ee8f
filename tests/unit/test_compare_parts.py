"""Corruptions, perturbations and defences beside one another, under a gate, and on a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.audit.defended import run as defended_run
from holdfast.card.claim import claim
from holdfast.card.hub import card
from holdfast.card.measured import measured
from holdfast.comparison import compare
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.foundation.errors import BadValue, Incomplete, PlanMismatch
from holdfast.gate.judge import Gate, judge
from holdfast.report.compared import write_comparison

FEW = ["brightness", "contrast", "gaussian_noise"]


class Sides(nn.Module):
    """Two classes by which half of the image is brighter, the left one by ``lead`` at least."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        self.lead = nn.Parameter(torch.tensor(lead))

    def forward(self, x: Tensor) -> Tensor:
        return 20 * torch.stack([x[..., :16].mean((1, 2, 3)) - self.lead, x[..., 16:].mean((1, 2, 3))], 1)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.3
    x[::2, ..., :16] += torch.linspace(0.02, 0.3, 6)[:, None, None, None]
    x[1::2, ..., 16:] += torch.linspace(0.02, 0.3, 6)[:, None, None, None]
    return x, torch.arange(12) % 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defended_run, "QUERIES", 10)
        for name, lead in (("even", 0.0), ("skewed", 0.12)):
            net, out = Sides(lead), folder / name
            holdfast.audit_corruptions(net, data, corruptions=FEW, severities=(2, 5), out=out)
            holdfast.audit_perturbations(net, data, perturbations=["translate", "rotate"], out=out)
            holdfast.audit_defence(
                net, data, GaussianNoise(0.1), threat=holdfast.Linf(0.05), out=out,
                steps=2, restarts=1, budgets=(1,), evaluations=4, tries=2,
            )  # fmt: skip
    return folder


def _document(folder: Path, part: str) -> dict:
    return json.loads((folder / part / "summary.json").read_text())


def test_every_figure_is_that_of_the_summaries(runs: Path) -> None:
    found = compare([runs / "even", runs / "skewed"])
    parts = {part.kind: part for part in found.parts}
    assert list(parts) == ["corruptions", "perturbations", "defence"]
    for place, name in enumerate(("even", "skewed")):
        weather, films, guard = (_document(runs / name, part) for part in ("corruptions", "perturbations", "defended"))
        rows = {(kind, row.measure): row.rates[place].value for kind, part in parts.items() for row in part.rows}
        assert rows["corruptions", "clean accuracy"] == pytest.approx(1 - weather["clean"]["error"]["value"])
        for row in weather["rows"]:
            told = row["corruption"].replace("_", " ")
            assert rows["corruptions", f"accuracy under {told}"] == pytest.approx(1 - row["mean_error"])
        assert parts["corruptions"].headline.rates[place].value == pytest.approx(1 - weather["mean_error"]["value"])
        assert parts["perturbations"].headline.rates[place].value == pytest.approx(
            films["mean_flip_probability"]["value"]
        )
        for column in ("adaptive", "oblivious"):
            expected = guard[column]["mean"]
            assert rows["defence", f"accuracy, {column} attack"] == pytest.approx(expected["value"])
    corrupted = parts["corruptions"].headline
    one, two = corrupted.rates
    assert corrupted.measure == "accuracy, mean of 3 corruptions" and corrupted.against[0].p_value is None
    assert corrupted.against[0].difference.value == pytest.approx(two.value - one.value)
    assert two.value < one.value - 0.05
    clean = next(row for row in parts["corruptions"].rows if row.measure == "clean accuracy")
    assert clean.against[0].p_value is not None and clean.against[0].only_first
    assert not parts["perturbations"].headline.higher_is_better
    assert ("model", "model fingerprint") in [(change.group, change.what) for change in found.changes]
    assert len({(change.group, change.what) for change in found.changes}) == len(found.changes)


def test_the_page(runs: Path, tmp_path: Path) -> None:
    found = compare([runs / "even", runs / "skewed"])
    text = write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8")
    assert "is worse than" in text and "Left of 0 is better" in text and "Right of 0 is better" in text


def test_other_conditions_are_refused_and_other_kinds_left_out(runs: Path, data, tmp_path: Path) -> None:
    net = Sides(0.0)
    holdfast.audit_corruptions(net, data, corruptions=FEW, severities=(1,), out=tmp_path / "levels")
    with pytest.raises(PlanMismatch, match="severities"):
        compare([runs / "even", tmp_path / "levels"])
    holdfast.audit_corruptions(net, data, corruptions=["contrast", "fog"], severities=(2, 5), out=tmp_path / "kinds")
    found = compare([runs / "even", tmp_path / "kinds"])
    (part,) = found.parts
    assert [row.measure for row in part.rows] == ["clean accuracy", "accuracy under contrast"]
    assert part.headline.measure == "accuracy under contrast"
    assert any("differ in their kinds" in caution.text for caution in found.cautions)
    assert any("also holds perturbations, defence" in caution.text for caution in found.cautions)
    holdfast.audit_corruptions(net, data, corruptions=["fog"], severities=(2, 5), out=tmp_path / "fog")
    with pytest.raises(PlanMismatch, match="no corruption in common"):
        compare([runs / "even", tmp_path / "fog"])


def test_the_gate(runs: Path) -> None:
    weather, guard = _document(runs / "even", "corruptions"), _document(runs / "even", "defended")
    asked = ("mean_error <= 1", "flip_probability <= 1", "adaptive_accuracy >= 0", "gain >= -1", "clean_accuracy >= 0")
    verdict = judge(runs / "even", Gate(require=asked))
    values = {judged.asked.split()[0]: judged for judged in verdict.judged}
    assert values["mean_error"].value == weather["mean_error"]["value"]
    assert values["gain"].low == guard["gain"]["low"] and all(judged.met for judged in verdict.judged)
    assert values["clean_accuracy"].value == 1 - weather["clean"]["error"]["value"]
    (worse,) = judge(runs / "skewed", Gate(require=("difference >= -0.05",), baseline=str(runs / "even"))).judged
    assert not worse.met and worse.value < -0.05
    with pytest.raises(BadValue, match="no baseline"):
        judge(runs / "even", Gate(require=("difference >= 0",)))


def test_the_gate_on_certificates(data, tmp_path: Path) -> None:
    found = holdfast.audit_smoothing(
        Sides(0.0), data, sigma=0.1, select=20, estimate=200, radii=[0.1], attack=False, out=tmp_path / "c"
    ).summary
    accept = tuple(warning.check for warning in found.warnings)
    (judged,) = judge(tmp_path / "c", Gate(require=("certified_accuracy at 0.1 >= 0.1",), accept=accept)).judged
    assert judged.met and judged.value == next(point for point in found.curve if point.radius == 0.1).certified.value
    with pytest.raises(BadValue, match="has certified_accuracy at"):
        judge(tmp_path / "c", Gate(require=("certified_accuracy >= 0.1",)))
    with pytest.raises(BadValue, match="cannot be paired"):
        compare([tmp_path / "c", tmp_path / "c"])
    (tmp_path / "c" / "certify.json").unlink()
    with pytest.raises(Incomplete):
        judge(tmp_path / "c", Gate(require=("certified_accuracy at 0.1 >= 0.1",)))


def test_the_card_and_the_claim(runs: Path) -> None:
    found = measured(runs / "even")
    text = card(found)
    weather = _document(runs / "even", "corruptions")
    right = 1 - weather["mean_error"]["value"]
    assert '"Accuracy under common corruptions (mean)"' in text and f"value: {round(right, 4)}" in text
    assert '"Accuracy behind the defence, adaptive attack"' in text
    told = claim(found, {})
    assert told["corruptions_acc"] == told["reported"] == f"{100 * right:.2f}" and told["eps"] is None
    assert "autoattack_acc" not in told and "3 corruptions" in told["footnote"]
