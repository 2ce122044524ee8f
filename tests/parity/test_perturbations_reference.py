"""The benchmark's own frames and metrics, made by benchmarks/golden/make_perturbations.py: its draws replayed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.audit.perturbed.flips import flips, top5_distances
from holdfast.foundation import registry
from holdfast.perturbations.perturbation import Draws

NAMES = registry.names("perturbation")
KEPT = {"32": ((1, 4, 7, 11, 15, -2), 2), "224": ((0, 1, 12, 22, -1), 7)}
SHARE = {"scale": 0.04, "shear": 0.01, "brightness": 0.02}
"""How many values may differ, by one level, where it is more than one in 500: weighted means that are whole numbers, and
which the reference's rounding puts on the one side or the other."""


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "perturbations.npz") as file:
        return dict(file)


def picture(variant: str) -> Tensor:
    small = golden()["picture"]
    image = small if variant == "32" else np.tile(small, (4, 4, 1))[:112, :112]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def draws(name: str, variant: str, x: Tensor) -> Draws | None:
    """The reference's draws, made again: the stream of this generator never changes."""
    generator = np.random.RandomState(7)
    _, channels, high, wide = x.shape
    frames, *constants = registry.load("perturbation", name).table[variant][0]
    if name == "gaussian_noise":
        return {"normal": torch.from_numpy(generator.normal(size=(1, frames - 1, channels, high, wide))).float()}
    if name == "speckle_noise":
        drawn = generator.normal(size=(1, frames - 1, high, wide, channels))
        return {"normal": torch.from_numpy(drawn).permute(0, 1, 4, 2, 3).float()}
    if name == "shot_noise":
        rates = x[0].permute(1, 2, 0).double().numpy() / 255 * constants[0]
        drawn = np.stack([generator.poisson(rates) for _ in range(frames - 1)])
        return {"counts": torch.from_numpy(drawn).permute(0, 3, 1, 2)[None]}
    if name in ("snow", "spatter"):
        return {"normal": torch.from_numpy(generator.normal(size=(1, high, wide))).float()}
    return None


@pytest.mark.parametrize("variant", list(KEPT))
@pytest.mark.parametrize("name", NAMES)
def test_frames_of_the_reference(name: str, variant: str) -> None:
    x = picture(variant)
    nothing = torch.zeros(1, dtype=torch.int64)
    made = registry.load("perturbation", name)()(x, nothing, variant=variant, draws=draws(name, variant, x))[0]
    frames, stride = KEPT[variant]
    apart = (
        made[list(frames), :, ::stride, ::stride].int() - torch.from_numpy(golden()[f"{name} {variant}"]).int()
    ).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= SHARE.get(name, 0.002)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_metrics_of_the_reference(noise: bool, difficulty: int) -> None:
    ranked = golden()["ranks"].argsort(2)
    found = flips(ranked[..., 0], noise=noise, difficulty=difficulty).mean()
    assert found == pytest.approx(float(golden()[f"flips {noise} {difficulty}"]), abs=1e-12)
    found = top5_distances(ranked, noise=noise, difficulty=difficulty).mean()
    assert found == pytest.approx(float(golden()[f"top5 {noise} {difficulty}"]), abs=1e-12)
