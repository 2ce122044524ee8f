"""Gradients of nets whose gradients are known: cosines, shares and radii follow by hand."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.data.arrays import from_pair
from holdfast.data.source import subset
from holdfast.explain.case import Case, Net
from holdfast.explain.questions.gradients import Gradients
from holdfast.explain.questions.gradients_figures import NOISE, coloured, scaled
from holdfast.explain.store import packed
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.models.load import load
from holdfast.probes import alignment
from holdfast.threats.linf import Linf

SIDE = 8


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("holdfast.explain.compare.REPEATS", 10)


class Plane(nn.Module):
    """Class 1 where direction . x is above a threshold; the margin's gradient is the direction, everywhere."""

    def __init__(self, direction: Tensor, threshold: float = 0.0, channels: int = 1) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction.double())
        self.threshold = threshold
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        value = (x.flatten(1) @ self.direction - self.threshold) / 2
        return torch.stack([-value, value], 1)


class Broken(nn.Module):
    """Logits times ``factor``: 0 makes it constant, NaN, where most pixels are black, nothing at all."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        factor = torch.where((x.flatten(1) == 0).double().mean(1) > 0.5, self.factor, self.factor.nan_to_num(1.0))
        return factor[:, None] * torch.stack([mean, -mean], 1)


def bars(n: int = 20, seed: int = 0, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Dark images with an upright bar (class 0) or a level one (class 1), of different brightness."""
    draws, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = np.zeros((n, channels, SIDE, SIDE))
    for image, label in zip(images, labels):
        place, level = draws.integers(2, SIDE - 3), draws.uniform(0.5, 1.0)
        across, along = slice(place, place + 2), slice(1, -1)
        image[:, along if label == 0 else across, across if label == 0 else along] = level
    return images, labels


def difference() -> Tensor:
    """Mean of class 1 minus mean of class 0, of the known images."""
    images, labels = bars(40, seed=1)
    return torch.from_numpy(images[labels == 1].mean(0) - images[labels == 0].mean(0)).flatten()


def net(module: nn.Module, name: str, role: str = "model", channels: int = 1) -> Net:
    return Net(name, load(module, shape=(channels, SIDE, SIDE)), role)  # type: ignore[arg-type]


def case(*nets: Net, channels: int = 1, **changes) -> Case:
    images, labels = bars(channels=channels)
    if not nets:
        noise = torch.from_numpy(np.random.default_rng(3).normal(size=difference().shape))
        nets = (net(Plane(difference()), "model"), net(Plane(noise), "random", "twin"))
    known = from_pair(*bars(40, seed=1, channels=channels), name="known")
    return replace(Case(nets, from_pair(images, labels), Linf(0.1), known), **changes)


def ask(asked: Case, **settings):
    return Gradients(**settings).ask(asked, lambda *_: None)


def test_sparsity_and_cosines_in_closed_form():
    single, even = torch.zeros(1, 1, 2, 5), torch.full((1, 1, 2, 5), -3.0)
    single[0, 0, 1, 2] = 7
    assert float(alignment.gini(single)) == pytest.approx(0.9) and float(alignment.gini(even)) == pytest.approx(0)
    tiny = torch.tensor([[3e-200, 4e-200], [0.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2)
    found = alignment.cosine(tiny, torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2))
    assert float(found[0]) == pytest.approx(0.6) and bool(found[1].isnan())


def test_alpha_is_the_linearised_radius_without_biases_and_only_there():
    torch.manual_seed(0)
    for bias, same in ((False, True), (True, False)):
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 9, bias=bias), nn.ReLU(), nn.Linear(9, 3, bias=bias)
        )
        found = ask(case(net(module.double(), "model")))
        alpha, rho = found.arrays["model/alpha"], found.arrays["model/rho"]
        assert np.allclose(alpha, rho) == same


def test_the_object_is_what_is_bright_and_its_edge():
    x = torch.zeros(1, 1, 28, 28)
    x[0, 0, 10, 10] = 0.5
    shown = alignment.objects(x, 0.1)
    assert int(shown.sum()) == 9 and bool(shown[0, 9:12, 9:12].all())
    grad = torch.zeros(1, 1, 28, 28)
    grad[0, 0, 9, 9], grad[0, 0, 0, 0] = -3.0, 1.0
    assert float(alignment.on_object(grad, shown)) == pytest.approx(0.75)
    assert bool(alignment.on_object(grad, torch.ones_like(shown)).isnan())
    assert alignment.plain(x, 0.1) and not alignment.plain(1 - x, 0.1)


def test_a_plane_along_the_class_difference():
    found = ask(case())
    assert np.allclose(found.arrays["model/classes"], 1)
    assert np.allclose(found.arrays["model/stability"], 1) and np.allclose(found.arrays["random/stability"], 1)
    images, labels = bars()
    x = images.reshape(len(images), -1) - images.reshape(len(images), -1).mean(1, keepdims=True)
    towards = np.where(labels == 1, 1, -1)[:, None] * difference().numpy()
    by_hand = (x * towards).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(towards, axis=1)
    np.testing.assert_allclose(found.arrays["model/image"], by_hand)
    text = " ".join(found.sentences)
    assert "Cosine with image" in text and "random (difference" in text and "larger" in text
    assert not found.breaches


def test_noise_is_what_chance_gives():
    found = ask(case(), images=20)
    area = found.words["area"]
    assert abs(np.median(found.arrays[f"{NOISE}/object"]) - area) < 0.1
    assert abs(np.mean(found.arrays[f"{NOISE}/image"])) < 0.1 and abs(np.mean(found.arrays[f"{NOISE}/stability"])) < 0.1
    assert found.tables[0].rows[-1][0] == NOISE


def test_the_same_again_and_for_each_image_alone():
    torch.manual_seed(0)
    curved = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    whole = case(net(Plane(difference()), "model"), net(curved, "curved", "twin"))
    first, again = ask(whole), ask(whole)
    assert packed(first) == packed(again)
    for key, values in first.arrays.items():
        assert np.array_equal(values, again.arrays[key], equal_nan=True)
    part = replace(whole, source=subset(whole.source, 5, 0))
    places = np.searchsorted(whole.source.ids, part.source.ids)
    found = ask(part)
    for key in ("model/image", "model/object", "curved/stability", f"{NOISE}/gini", "model/rho"):
        np.testing.assert_allclose(found.arrays[key], first.arrays[key][places], rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    ("factor", "word"), [(0.0, "the same for all 20 images"), (float("nan"), "not finite on 20 of 20 images")]
)
def test_nets_without_gradients_are_breaches(factor, word):
    found = ask(case(net(Broken(factor), "model"), net(Plane(difference()), "good", "twin")))
    assert len(found.breaches) == 1 and word in found.breaches[0] and found.breaches[0].startswith("model:")
    assert found.tables[0].rows[0][1].n == 0 and found.tables[0].rows[1][1].n == 20
    assert not any("disagree" in each for each in found.sentences)
    for figure in Gradients().draw(found):
        figure.chart.to_dict()


def test_zero_gradients_are_counted():
    class Dead(Plane):
        def forward(self, x: Tensor) -> Tensor:
            # Class 1's images, whose level bars cross the middle column, lie on a plateau.
            value = torch.relu(0.9 - x[:, 0, 1].sum(1)) + 0 * x.sum((1, 2, 3))
            return torch.stack([-value, value], 1)

    images, _ = bars()
    flat = int((images[:, 0, 1].sum(1) > 0.9).sum())
    assert 0 < flat <= 10
    found = ask(case(net(Dead(difference()), "model")))
    assert not found.breaches and any(f"exactly zero on {flat} images" in each for each in found.caveats)


def test_without_known_images_and_without_a_plain_background():
    found = ask(case(known=None))
    assert "classes" not in found.words["keys"] and any("--train" in each for each in found.caveats)
    bright = from_pair(1 - bars(channels=3)[0], bars()[1])
    plane = Plane(difference().repeat(3), channels=3)
    found = ask(case(net(plane, "model", channels=3), source=bright, known=None, channels=3))
    assert "object" not in found.words["keys"] and any("plain dark background" in each for each in found.caveats)
    figures = Gradients().draw(found)
    assert "mid-grey" in figures[0].caption
    for figure in figures:
        figure.chart.to_dict()


def test_colours():
    assert np.allclose(coloured(np.zeros((1, 2, 2))), 1) and np.allclose(coloured(np.zeros((3, 2, 2))), 0.5)
    more, less = coloured(np.full((1, 1, 1), 5.0)).ravel(), coloured(np.full((1, 1, 1), -1.0)).ravel()
    assert more[2] > more[0] and less[0] > less[2]  # blue raises, red lowers
    assert coloured(np.array([2.0, 0.0, -2.0]).reshape(3, 1, 1)).ravel().tolist() == [1, 0.5, 0]


def test_one_scale_for_all_nets_or_each_its_own():
    draws = np.random.default_rng(0)
    narrow = torch.from_numpy(draws.normal(size=(2, 1, 4, 4)))
    maps = {"model": narrow, "twin": 10 * narrow, "untrained": 1000 * narrow}
    values, units = scaled(maps, ["model", "twin"], "shared")
    sigma = narrow.flatten(1).std(1, correction=0).numpy()
    np.testing.assert_allclose(units, np.broadcast_to(30 * sigma, (3, 2)))
    np.testing.assert_allclose(values[1].astype(float), (narrow.numpy() / (3 * sigma[:, None, None, None])), rtol=1e-3)
    values, units = scaled(maps, ["model", "twin"], "own")
    np.testing.assert_allclose(values[0], values[2]) and np.testing.assert_allclose(units[1], 10 * units[0])


def test_figures_are_drawn_from_what_is_stored():
    found = ask(case())
    names = [figure.name for figure in Gradients().draw(replace(found, tables=(), sentences=()))]
    assert names == ["gradient", "numbers"]
    for figure in Gradients().draw(found):
        figure.chart.to_dict()
    assert sum(each.nbytes for each in found.arrays.values()) < 2_000_000


@pytest.mark.parametrize(
    "settings", [{"scale": "both"}, {"above": 1.0}, {"shake": 0.0}, {"maps": ("saliency",)}, {"loss": "mse"}]
)
def test_settings_are_checked(settings):
    with pytest.raises((BadValue, UnknownName)):
        Gradients(**settings)
    assert asdict(Gradients())["scale"] == "shared"


def test_without_captum_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    probe = Gradients(maps=("gradient", "smooth_grad"))
    with pytest.raises(BadValue, match="captum") as raised:
        probe.effort(case(), 10)
    assert "holdfast[explain]" in raised.value.hint


def test_maps_that_average_gradients():
    pytest.importorskip("captum.attr", reason='captum is not installed (pip install "holdfast[explain]")')
    asked = case()
    found = ask(asked, maps=("integrated_gradients", "smooth_grad"))
    # Of a plane: the direction times the image, and the direction; towards class 1, away from it for class 0.
    assert np.allclose(found.arrays["model/smooth_grad/cosine"], 1)
    assert found.arrays["model/integrated_gradients/error"].max() < 1e-6
    images, labels = bars()
    by_hand = np.where(labels == 1, 1, -1)[:, None] * images.reshape(20, -1) * difference().numpy()
    x = images.reshape(20, -1) - images.reshape(20, -1).mean(1, keepdims=True)
    cosine = (x * by_hand).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(by_hand, axis=1)
    np.testing.assert_allclose(found.arrays["model/integrated_gradients/image"], cosine, rtol=1e-6)
    again = ask(asked, maps=("integrated_gradients", "smooth_grad"))
    assert np.array_equal(found.arrays["map/smooth_grad"], again.arrays["map/smooth_grad"])
    for figure in Gradients().draw(found):
        figure.chart.to_dict()
