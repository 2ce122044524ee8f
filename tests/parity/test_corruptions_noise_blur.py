"""Noises and blurs against the results of the ImageNet-C authors' code, with its draws: benchmarks/golden made the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.foundation import registry

GOLDEN = np.load(Path(__file__).parent / "golden" / "noise_blur.npz")
CASES = sorted(name.removesuffix("/output") for name in GOLDEN.files if name.endswith("/output"))

# Shares of values that may differ, by 1. Where neighbours are symmetric a small Gaussian gives whole numbers, which its
# authors' float64 sums miss to either side before they are truncated; ImageMagick's sums have more bits than ours.
SHARES = {"glass_blur": 0.02, "motion_blur": 0.004, "defocus_blur": 0.001, "zoom_blur": 0.001, "gaussian_blur": 0.002}


def test_nothing_is_missing() -> None:
    assert len(CASES) == 9 * 2 * 3 and "github.com/hendrycks/robustness" in str(GOLDEN["origin"])


@pytest.mark.parametrize("case", CASES)
def test_at_most_one_level_from_the_authors_code(case: str) -> None:
    name, variant, severity = case.split("/")
    output = torch.from_numpy(GOLDEN[f"{case}/output"])
    x = torch.from_numpy(GOLDEN[f"input/{output.shape[-1]}"])
    prefix = f"{case}/draw/"
    draws = {
        of.removeprefix(prefix): torch.from_numpy(GOLDEN[of])[None] for of in GOLDEN.files if of.startswith(prefix)
    }
    corruption = registry.load("corruption", name)()
    # `apply`, and not a call, which would refuse the constants of 224 pixels for a picture this small.
    out = corruption.apply(x[None], corruption.table[variant][int(severity) - 1], draws)[0]
    difference = (out.int() - output.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) <= SHARES.get(name, 0)
    assert float((x.int() - output.int()).abs().double().mean()) > 0.05  # the case shows something
