"""A model under corruptions: what is written, resumed, refused, and read back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import holdfast
from holdfast.audit.corrupted import notes
from holdfast.audit.corrupted.conclude import Baseline
from holdfast.audit.corrupted.question import asked
from holdfast.audit.corrupted.write import write_set
from holdfast.audit.divided import Progress
from holdfast.data.arrays import from_pair
from holdfast.data.frost import frost_photographs
from holdfast.data.released import open_released
from holdfast.foundation.errors import BadData, BadFile, BadModel, BadValue, PlanMismatch, UnknownName
from holdfast.records.conditions import Outcomes
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES
from holdfast.report.page import render

FEW = ("gaussian_noise", "fog", "pixelate")
N = 70


class Levels(nn.Module):
    """Four classes by the mean of the image; what a corruption does to the brightness decides."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([0.2, 0.4, 0.6, 0.8]))

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.flatten(1).mean(1, keepdim=True) - self.centres) ** 2


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, N)
    base = (0.2 + 0.2 * labels + draw.normal(0, 0.07, N))[:, None, None, None] + draw.normal(0, 0.08, (N, 3, 32, 32))
    return np.rint(base.clip(0, 1) * 255).astype(np.uint8), labels


def lines(folder: Path) -> dict[tuple[str, int, int], Outcomes]:
    found = [
        (line.corruption, line.severity, line.first, line)
        for line in whole(folder / "corruptions" / OUTCOMES, Outcomes)
    ]
    assert len({each[:3] for each in found}) == len(found), "no chunk is written twice"
    return {each[:3]: each[3] for each in found}


def test_the_numbers_are_those_of_the_images(data, tmp_path: Path) -> None:
    found = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, severities=(1, 5), out=tmp_path / "run")
    source = from_pair(*data)
    question = asked(source, corruptions=FEW, severities=(1, 5))
    images, labels = torch.from_numpy(data[0]), data[1]
    for name in FEW:
        for place, severity in enumerate((1, 5)):
            made = question.supply(name, severity, np.arange(N), images)
            predicted = Levels()(made.float() / 255).argmax(1).numpy()
            assert found.errors[name][place] == pytest.approx((predicted != labels).mean())
            assert (found.seen.predicted[name, severity] == predicted).all()
    assert found.mean_error == pytest.approx(np.mean([found.errors[name] for name in FEW]))
    assert found.summary.mean_error and found.summary.mean_error.low < found.mean_error < found.summary.mean_error.high
    assert found.mce is None and found.summary.baseline == "" and found.summary.forwards == 7 * N
    worst = {row.corruption: row for row in found.summary.rows}["fog"]
    wrong = np.mean([~found.seen.right(("fog", severity)) for severity in (1, 5)], axis=0)
    assert worst.worst_class_error == pytest.approx(max(wrong[labels == label].mean() for label in range(4)))


def test_a_stopped_run_goes_on_and_a_finished_one_is_only_read(data, tmp_path: Path) -> None:
    whole_run = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_at(count: int):
        seen: list[Progress] = []

        def watch(step: Progress) -> None:
            seen.append(step)
            if len(seen) == count:
                raise Stop

        return watch

    for count in (1, 3, 2):
        with pytest.raises(Stop):
            holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "torn", watch=stop_at(count))
        with (tmp_path / "torn" / "corruptions" / OUTCOMES).open("ab") as file:
            file.write(b'{"corruption": "fo')  # a line that a kill tore
    steps: list[Progress] = []
    resumed = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "torn", watch=steps.append)
    assert len(steps) == 16 - 6 and steps[-1].done == steps[-1].total == 16 * N and steps[-1].eta == 0
    assert lines(tmp_path / "torn") == lines(tmp_path / "whole")
    strip = {"seconds"}
    assert resumed.summary.model_dump(exclude=strip) == whole_run.summary.model_dump(exclude=strip)
    again = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "torn", watch=stop_at(1))
    assert again.summary == resumed.summary
    with pytest.raises(PlanMismatch, match="its severities is"):
        holdfast.audit_corruptions(Levels(), data, corruptions=FEW, severities=(1,), out=tmp_path / "torn")


def test_neither_batches_nor_workers_nor_subsets_change_an_image(data) -> None:
    images, ids = torch.from_numpy(data[0]), np.arange(N)
    question = asked(from_pair(*data), corruptions=["all"], seed=3)
    parts = np.array_split(ids, 7)
    for name in question.corruptions:
        at_once = question.supply(name, 3, ids, images)
        with ThreadPoolExecutor(4) as pool:
            apart = list(pool.map(lambda part: question.supply(name, 3, part, images[part]), parts))  # noqa: B023
        assert torch.equal(torch.cat(apart), at_once), name
        one = question.supply(name, 3, ids[41:42], images[41:42])
        assert torch.equal(one[0], at_once[41]), name


@pytest.mark.parametrize("layout", ["arrays", "folders"])
def test_a_written_set_gives_the_same_numbers_as_the_images_in_memory(data, layout: str, tmp_path: Path) -> None:
    order = np.argsort(data[1], kind="stable")  # a folder sorts its images by class
    pair = data[0][order], data[1][order]
    source = from_pair(*pair)
    question = asked(source, corruptions=FEW)
    seen: list[tuple[str, int, int]] = []
    written = write_set(source, question, tmp_path / "set", layout=layout, watch=lambda *step: seen.append(step))
    assert written == 15 * N and seen[-1] == ("pixelate", 15 * N, 15 * N)
    mine = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.*") if path.name != "corrupted.json"}
    write_set(source, question, tmp_path / "set", layout=layout)
    assert mine == {path: path.stat().st_mtime_ns for path in mine}, "what is there is not made again"
    made = holdfast.audit_corruptions(Levels(), pair, corruptions=FEW)
    read = holdfast.audit_corruptions(Levels(), pair, corruptions="all", released=tmp_path / "set")
    assert read.errors == made.errors and read.summary.mean_error == made.summary.mean_error
    assert open_released(tmp_path / "set").corruptions == tuple(sorted(FEW))
    if layout == "folders":  # the released archives unpack into a folder for each family
        (tmp_path / "families" / "digital").mkdir(parents=True)
        (tmp_path / "set" / "pixelate").rename(tmp_path / "families" / "digital" / "pixelate")
        nested = holdfast.audit_corruptions(Levels(), pair, released=tmp_path / "families")
        assert nested.errors == {"pixelate": made.errors["pixelate"]}
        (tmp_path / "families" / "digital" / "pixelate").rename(tmp_path / "set" / "pixelate")
    with pytest.raises(PlanMismatch, match="its seed is 0, now it is 1"):
        write_set(source, asked(source, corruptions=FEW, seed=1), tmp_path / "set", layout=layout)


def test_a_baseline_makes_ce(data, tmp_path: Path) -> None:
    holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "base")
    itself = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, baseline=tmp_path / "base")
    assert itself.mce == pytest.approx(1)
    fog = holdfast.audit_corruptions(Levels(), data, corruptions="fog", baseline=tmp_path / "base")
    assert fog.summary.relative_mce == pytest.approx(1)
    assert itself.summary.mce and itself.summary.mce.low < 1 < itself.summary.mce.high
    assert itself.summary.baseline == Baseline.named(str(tmp_path / "base")).name
    with pytest.raises(BadValue, match="has no errors for snow"):
        holdfast.audit_corruptions(Levels(), data, corruptions="snow", baseline=tmp_path / "base")
    with pytest.raises(BadFile, match="does not exist"):
        holdfast.audit_corruptions(Levels(), data, corruptions=FEW, baseline=tmp_path / "nothing")


def test_a_baseline_that_hardly_errs_is_doubted(data, tmp_path: Path) -> None:
    asked_for = {"corruptions": "gaussian_noise", "severities": (5,)}
    base = holdfast.audit_corruptions(Levels(), data, limit=9, out=tmp_path / "base", **asked_for)
    found = holdfast.audit_corruptions(Levels(), data, baseline=tmp_path / "base", **asked_for)
    (doubt,) = (each for each in found.summary.warnings if each.check == "thin baseline")
    assert f"gaussian_noise ({round(9 * base.errors['gaussian_noise'][0])})" in doubt.saw
    assert notes.thin("other", {"fog": 20}) == ()


def test_alexnet_is_the_baseline_of_imagenet_alone(data) -> None:
    small = holdfast.audit_corruptions(Levels(), data, corruptions="test", limit=4)
    assert small.mce is None and len(small.summary.counted) == 15
    forced = holdfast.audit_corruptions(Levels(), data, corruptions="test", limit=4, baseline="alexnet")
    assert forced.summary.baseline == "AlexNet" and forced.mce is not None


def test_what_was_trained_on_is_marked_and_left_out(data, tmp_path: Path) -> None:
    from holdfast.models.load import load as load_model

    model = load_model(Levels(), shape=(3, 32, 32))
    trained = type(model)(**{**model.__dict__, "declared": {"operations": '["gaussian_noise"]'}})
    found = holdfast.audit_corruptions(trained, data, corruptions=FEW, out=tmp_path / "run")
    assert found.summary.untouched is not None
    clear = [found.errors[name] for name in ("fog", "pixelate")]
    assert found.summary.untouched.value == pytest.approx(np.mean(clear)) != found.mean_error
    assert "trained on the test" in {warning.check for warning in found.summary.warnings}
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "where training left it alone" in page and "trained on" in page


def test_a_model_that_adapts_begins_anew_with_every_condition(data, tmp_path: Path) -> None:
    made = []

    def adapt(model):
        made.append(0)
        seen = []

        def classifier(x: Tensor) -> Tensor:
            seen.append(len(x))
            assert sum(seen) <= N
            return model.module(x)

        return classifier

    plain = holdfast.audit_corruptions(Levels(), data, corruptions=FEW)
    found = holdfast.audit_corruptions(Levels(), data, corruptions=FEW, adapt=adapt, adaptation="nothing at all")
    assert len(made) == 16 and found.errors == plain.errors
    assert "adapts on the test data" in {warning.check for warning in found.summary.warnings}


def test_bad_input_is_refused_before_any_work(data, tmp_path: Path) -> None:
    def run(**given):
        return holdfast.audit_corruptions(Levels(), data, **{"corruptions": FEW, **given})

    with pytest.raises(UnknownName, match="unknown corruption 'fogg'") as caught:
        run(corruptions="fogg")
    assert "did you mean fog" in caught.value.hint
    with pytest.raises(BadValue, match="severity is 6"):
        run(severities=(1, 6))
    with pytest.raises(BadValue, match="variant '224' is for images of about 224 pixels, these have 32 x 32"):
        run(variant="224")
    with pytest.raises(UnknownName, match="unknown variant '48'"):
        run(variant="48")
    with pytest.raises(BadValue, match="jpeg is 0"):
        run(jpeg=0)
    with pytest.raises(BadFile, match=r"does not hold frost1.png") as caught:
        run(frost_dir=tmp_path)
    assert "procedural" in caught.value.hint
    with pytest.raises(BadData, match="2 channels"):
        holdfast.audit_corruptions(Levels(), (data[0][:, :2], data[1]), corruptions=FEW)

    class Torn(Levels):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / ((x == 1).flatten(1).sum(1, keepdim=True) < 4)

    calm = (data[0] // 2, data[1])
    with pytest.raises(BadModel, match=r"not finite .* under impulse_noise, severity"):
        holdfast.audit_corruptions(Torn(), calm, corruptions=["impulse_noise"])


def test_released_files_that_do_not_fit(data, tmp_path: Path) -> None:
    source = from_pair(*data)
    good = tmp_path / "good"
    write_set(source, asked(source, corruptions=["fog"]), good, layout="arrays")

    def damaged(name: str, file: str, array: np.ndarray) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for each in ("fog.npy", "labels.npy"):
            (folder / each).write_bytes((good / each).read_bytes())
        np.save(folder / file, array)
        return folder

    rows = np.load(good / "fog.npy")
    for name, file, array, message in (
        ("short", "fog.npy", rows[:-1], r"\(350, H, W, 3\) is needed"),
        ("floats", "fog.npy", rows / 255, "is float64"),
        ("first", "fog.npy", rows.transpose(0, 3, 1, 2), "is uint8 of shape"),
        ("odd", "labels.npy", np.arange(7), r"\(5 n,\) are needed"),
        ("wrong", "labels.npy", np.load(good / "labels.npy") ^ 1, "has the label"),
        ("size", "fog.npy", rows[:, :16, :16], "have shape"),
    ):
        with pytest.raises(BadData, match=message):
            holdfast.audit_corruptions(Levels(), data, released=damaged(name, file, array))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadFile, match=r"holds neither labels.npy nor folders"):
        holdfast.audit_corruptions(Levels(), data, released=tmp_path / "nothing")
    with pytest.raises(BadFile, match="does not exist"):
        holdfast.audit_corruptions(Levels(), data, released=tmp_path / "gone")
    with pytest.raises(UnknownName, match="unknown corruption in good 'snow'"):
        holdfast.audit_corruptions(Levels(), data, released=good, corruptions="snow")
    pickled = damaged("pickled", "fog.npy", np.array([{"a": 1}] * 350, dtype=object))
    with pytest.raises(BadFile, match="cannot be read as a NumPy array"):
        holdfast.audit_corruptions(Levels(), data, released=pickled)


def test_frost_photographs_are_read_and_said(data, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    for number in range(1, 6):
        picture = Image.fromarray(draw.integers(0, 256, (220, 260, 3), dtype=np.uint8))
        picture.save(tmp_path / f"frost{number}.{'png' if number < 4 else 'jpg'}")
    assert len(frost_photographs(tmp_path)) == 5
    with_them = holdfast.audit_corruptions(Levels(), data, corruptions="frost", frost_dir=tmp_path, out=tmp_path / "a")
    without = holdfast.audit_corruptions(Levels(), data, corruptions="frost", out=tmp_path / "b")
    told = [json.loads((tmp_path / run / "corruptions" / "run.json").read_text())["frost"] for run in ("a", "b")]
    assert told == ["photographs", "procedural"] and with_them.errors != without.errors


def test_the_page_of_corruptions_alone_and_of_two_models(data, tmp_path: Path) -> None:
    class Shifted(Levels):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - 0.05)

    holdfast.audit_corruptions(Levels(), data, corruptions=FEW, out=tmp_path / "a")
    holdfast.audit_corruptions(Shifted(), data, corruptions=(*FEW, "saturate"), out=tmp_path / "b")
    alone = render([tmp_path / "a"], tmp_path / "a.html").read_text()
    assert (
        'id="corruptions"' in alone and 'id="curve"' not in alone and "Mean corruption error, not normalised" in alone
    )
    assert "mCE, normalised" not in alone
    both = render([tmp_path / "a", tmp_path / "b"], tmp_path / "b.html").read_text()
    assert "differs from that of" in both and "not run" in both and "in no mean" in both
    file = tmp_path / "a" / "corruptions" / "summary.json"
    summary = json.loads(file.read_text())
    summary["cells"][0]["error"]["value"] += 0.5
    file.write_text(json.dumps(summary))
    with pytest.raises(BadFile, match="disagree about gaussian_noise 1"):
        render([tmp_path / "a"], tmp_path / "c.html")
