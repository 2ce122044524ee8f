"""Adversarial sets: written, read back, resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from holdfast.attacks.pgd import PGD
from holdfast.audit import craft as room
from holdfast.audit.craft import craft
from holdfast.data.load import load as load_data
from holdfast.foundation.errors import BadValue
from holdfast.models.load import load as load_model
from holdfast.threats.linf import Linf


@pytest.fixture(scope="module")
def subject():
    """A net of two classes of brightness, and digits labelled by it: half of them fall to a small change."""

    class Brightness(nn.Module):
        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([0.29 - mean, mean - 0.29], 1)

    digits = load_data("digits", limit=20, seed=0)
    images = digits.take(digits.ids).images
    labels = Brightness()(torch.from_numpy(images).float() / 255).argmax(1)
    source = load_data((images, labels.numpy()))
    return load_model(Brightness(), shape=source.shape), source


def test_every_format_holds_the_same(subject, tmp_path):
    model, source = subject
    threat = Linf(0.02)
    made = [
        craft(model, source, PGD(steps=3), threat=threat, out=tmp_path / name)
        for name in ("a.npz", "a.safetensors", "png")
    ]
    assert 0 < made[0].fooled < 20 and made[0].distance is not None
    assert made[0] == made[1] and made[2].rounded is not None and made[0].n == 20
    stored, packed = load_file(tmp_path / "a.safetensors"), np.load(tmp_path / "a.npz")
    assert all(np.array_equal(stored[key], packed[key]) for key in stored)
    x0 = torch.from_numpy(source.take(source.ids).images).float() / 255
    x = torch.from_numpy(stored["images"])
    assert threat.distance(x0, x).max() <= threat.eps + 1e-6 and stored["ids"].tolist() == source.ids.tolist()
    fooled = model.module(x).argmax(1) != torch.from_numpy(stored["labels"])
    assert torch.equal(fooled, torch.from_numpy(stored["fooled"]))
    again = load_data(tmp_path / "a.npz")
    assert np.allclose(again.take(again.ids).images, stored["images"]) and len(load_data(tmp_path / "png")) == 20
    pictures = load_data(tmp_path / "png")
    levels = pictures.take(pictures.ids).images
    assert levels.dtype == np.uint8 and not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*"))


def test_rounding_never_leaves_the_set():
    x0 = np.array([[[[100, 100, 0, 255]]]]) / 255
    x = x0 + np.array([[[[0.1, -0.1, 0.1, -0.1]]]])
    assert room._rounded(x, x0).tolist() == [[[[125, 75, 25, 230]]]]
    exact = x0 + np.array([8, -8, 8, -8]) / 255
    assert room._rounded(exact.astype(np.float32), x0).tolist() == [[[[108, 92, 8, 247]]]]


def test_a_stopped_call_goes_on(subject, tmp_path, monkeypatch):
    model, source = subject
    monkeypatch.setattr(room, "CHUNK", 1)
    options = {"threat": Linf(0.02), "slots": 4}
    whole = craft(model, source, PGD(steps=3), out=tmp_path / "whole.npz", **options)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise Stop

    with pytest.raises(Stop):
        craft(model, source, PGD(steps=3), out=tmp_path / "b.npz", watch=stop, **options)
    parts = sorted((tmp_path / "b.npz.parts").iterdir())
    times = [part.stat().st_mtime_ns for part in parts]
    assert len(parts) == 2 and not (tmp_path / "b.npz").exists()
    seen = []
    made = craft(model, source, PGD(steps=3), out=tmp_path / "b.npz", watch=lambda d, t: seen.append((d, t)), **options)
    assert made == whole and seen[-1] == (20, 20) and len(times) == 2
    one, other = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "b.npz")
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_nothing_is_overwritten(subject, tmp_path):
    model, source = subject
    (tmp_path / "a.npz").write_bytes(b"x")
    with pytest.raises(BadValue, match="exists"):
        craft(model, source, PGD(steps=1), threat=Linf(0.02), out=tmp_path / "a.npz")
