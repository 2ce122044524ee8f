"""Charts and pictures on their own."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_fixture import write_run

from holdfast.report import charts, pictures
from holdfast.report.read import read


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_pictures_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7)) / 255
    assert np.array_equal(np.asarray(decode(pictures.data_uri(image))), (image * 255).round().transpose(1, 2, 0))
    assert decode(pictures.data_uri(image[:1])).mode == "L"
    assert decode(pictures.data_uri(image[:2])).mode == "L"
    assert decode(pictures.data_uri(np.full((1, 2, 2), np.nan))).getpixel((0, 0)) == 0


def test_large_pictures_shrink():
    assert decode(pictures.data_uri(np.zeros((3, 224, 112)))).size == (48, 96)


def test_the_difference_is_amplified_around_grey():
    clean = np.full((1, 1, 1, 3), 0.5)
    adversarial = clean + np.array([0, 8 / 255, -8 / 255])
    factor = pictures.amplification(clean, adversarial)
    assert factor == 15
    expected = [0.5, 0.5 + 15 * 8 / 255, 0.5 - 15 * 8 / 255]
    assert pictures.difference(clean, adversarial, factor=factor).ravel() == pytest.approx(expected)
    assert pictures.amplification(clean, clean) == 1


def test_every_distance_is_a_step_of_the_curve(tmp_path):
    write_run(tmp_path / "a", n=50, gallery=None)
    run = read(tmp_path / "a")
    steps = charts.standing(run)
    assert steps[0] == (0.0, run.summary.clean_accuracy.value) and steps[-1][0] == max(run.info.curve)
    for eps, rate in charts.points(run)[1:]:
        assert [share for distance, share in steps if distance <= eps][-1] == pytest.approx(rate.value)
    write_run(tmp_path / "b", n=3000, gallery=None)
    assert 300 < len(charts.standing(read(tmp_path / "b"))) < 420
    with Image.open(charts.save_png(charts.distances([run], width=700), tmp_path / "distances.png")) as image:
        assert image.width > 1300


def test_a_chart_is_also_a_png(tmp_path):
    write_run(tmp_path / "a", n=40)
    write_run(tmp_path / "b", n=40)
    runs = [read(tmp_path / "a"), replace(read(tmp_path / "b"), label="b")]
    drawn = charts.curve(runs, width=700), charts.waterfall(runs[0], width=700), charts.margins(runs, width=700)
    for place, chart in enumerate(drawn):
        path = charts.save_png(chart, tmp_path / f"{place}.png")
        with Image.open(path) as image:
            assert image.width > 1300
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert charts.svg(chart) == charts.svg(chart)
