"""A model along perturbation sequences: what is written, resumed, refused and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.audit.perturbed.question import asked
from holdfast.data.arrays import from_pair
from holdfast.foundation.errors import BadFile, BadValue, PlanMismatch, UnknownName
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES
from holdfast.records.sequences import Sequences
from holdfast.report.page import render

FEW = ("gaussian_noise", "brightness", "translate")
N = 70


class Halves(nn.Module):
    """Six classes by the brightness of parts of the image: unsteady on purpose."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.mean(1).unflatten(1, (2, -1)).unflatten(3, (3, -1)) if x.shape[3] % 3 == 0 else x.mean(1)[..., :30]
        parts = parts.unflatten(1, (2, -1)).unflatten(3, (3, -1)) if parts.ndim == 3 else parts
        return 50 * parts.mean((2, 4)).flatten(1)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(100, 156, (N, 3, 32, 32), dtype=np.uint8), draw.integers(0, 6, N)


def test_the_numbers_are_those_of_the_frames(data, tmp_path: Path) -> None:
    found = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "run")
    question = asked(from_pair(*data), perturbations=FEW)
    rates = {}
    for name in FEW:
        frames = question.frames(name, np.arange(N), torch.from_numpy(data[0]))
        predicted = Halves()(frames.flatten(0, 1).float() / 255).argmax(1).view(frames.shape[:2])
        before = predicted[:, :1] if name == "gaussian_noise" else predicted[:, :-1]
        rates[name] = float((predicted[:, 1:] != before).double().mean())
    measured = {row.perturbation: row.flip_probability for row in found.rows}
    # The model may see a tie otherwise in another batch.
    assert {name: each.value for name, each in measured.items()} == pytest.approx(rates, abs=2e-3)
    assert all(each.low <= each.value <= each.high for each in measured.values()) and min(rates.values()) > 0
    assert found.mean_flip_probability
    assert found.mean_flip_probability.value == pytest.approx(np.mean([each.value for each in measured.values()]))
    assert found.mfr is None and found.baseline == ""
    assert found.forwards == N * (31 + 31 + 16)
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert 'id="perturbations"' in page and 'id="corruptions"' not in page and "Mean flip probability" in page


def test_a_stopped_run_goes_on(data, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step) -> None:
        raise Stop

    whole_run = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(Stop):
            holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "torn", watch=stop)
    steps = []
    resumed = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "torn", watch=steps.append)
    assert len(steps) == 6 - 2 and steps[-1].done == steps[-1].total == 3 * N
    torn, straight = (
        sorted(
            whole(tmp_path / name / "perturbations" / OUTCOMES, Sequences),
            key=lambda line: (line.perturbation, line.first),
        )
        for name in ("torn", "whole")
    )
    assert torn == straight and len(torn) == 6
    assert resumed.model_dump(exclude={"seconds"}) == whole_run.model_dump(exclude={"seconds"})
    assert holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "torn", watch=stop) == resumed
    with pytest.raises(PlanMismatch, match="its difficulty is 1, now it is 2"):
        holdfast.audit_perturbations(Halves(), data, perturbations=FEW, difficulty=2, out=tmp_path / "torn")


def test_difficulty_and_baseline(data, tmp_path: Path) -> None:
    easy = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, out=tmp_path / "easy")
    hard = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, difficulty=3)
    for before, after in zip(easy.rows, hard.rows):
        assert after.flip_probability.value > before.flip_probability.value
    itself = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, baseline=tmp_path / "easy")
    assert itself.mfr and itself.mfr.value == pytest.approx(1)
    against = holdfast.audit_perturbations(Halves(), data, perturbations=FEW, baseline="alexnet")
    assert against.baseline == "AlexNet" and against.rows[0].flip_rate == pytest.approx(
        easy.rows[0].flip_probability.value / 0.23653
    )


def test_bad_input_is_refused(data, tmp_path: Path) -> None:
    def run(**given):
        return holdfast.audit_perturbations(Halves(), data, **{"perturbations": FEW, **given})

    with pytest.raises(UnknownName, match="unknown perturbation 'tild'") as caught:
        run(perturbations="tild")
    assert "did you mean tilt" in caught.value.hint
    with pytest.raises(BadValue, match="difficulty is 4"):
        run(difficulty=4)
    with pytest.raises(BadValue, match="variant '224'"):
        run(variant="224")
    with pytest.raises(BadFile, match="does not exist"):
        run(baseline=tmp_path)
    three_classes = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    found = holdfast.audit_perturbations(three_classes, (data[0][:8], data[1][:8] % 3), perturbations="brightness")
    assert found.rows[0].top5_distance is None and found.mean_top5_distance is None
