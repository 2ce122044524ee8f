"""Weathers and digital corruptions against the ImageNet-C authors' code, with its draws: benchmarks/golden made the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.corruptions.frost import Frost
from holdfast.foundation import registry

GOLDEN = np.load(Path(__file__).parent / "golden" / "weather_digital.npz")
CASES = sorted(name.removeprefix("output/") for name in GOLDEN.files if name.startswith("output/"))

# Shares of values that may differ, by 1. The authors' way through HSV often misses a whole level from below, which is then
# truncated: with a factor of 2 every result is one. ImageMagick's sums have more bits than ours.
SHARES = {
    "brightness": 0.04,
    "saturate": 0.15,
    "snow": 0.005,
    "elastic_transform": 0.002,
    "fog": 0.001,
    "spatter": 0.001,
}


def pane(index: int) -> Tensor:
    row, column, band = np.ogrid[: 200 + 10 * index, : 250 - 10 * index, :3]
    pixels = ((row * (3 + index) + column * (5 + band) + row * column // (7 + index)) % 256).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_nothing_is_missing() -> None:
    assert len(CASES) == 8 * 2 * 3 and "github.com/hendrycks/robustness" in str(GOLDEN["origin"])


@pytest.mark.parametrize("case", CASES)
def test_at_most_one_level_from_the_authors_code(case: str) -> None:
    name, variant, severity = case.split("/")
    output = torch.from_numpy(GOLDEN[f"output/{case}"])
    x = torch.from_numpy(GOLDEN[f"input/{output.shape[-1]}"])
    prefix = f"draw/{name}/{variant}/"
    draws = {
        of.removeprefix(prefix): torch.from_numpy(GOLDEN[of])[None] for of in GOLDEN.files if of.startswith(prefix)
    }
    panes = tuple(pane(index) for index in range(6))
    corruption = Frost(pictures=panes) if name == "frost" else registry.load("corruption", name)()
    # `apply`, and not a call, which would refuse the constants of 224 pixels for a picture this small.
    out = corruption.apply(x[None], corruption.table[variant][int(severity) - 1], draws)[0]
    difference = (out.int() - output.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) <= SHARES.get(name, 0)
    assert float((x.int() - output.int()).abs().double().mean()) > 0.05  # the case shows something
