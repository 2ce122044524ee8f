"""Input transformations beside those of ART where it is installed, wherever the two mean the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_peers import peer
from torch import Tensor

from holdfast.defences.bit_depth import BitDepth
from holdfast.defences.jpeg_compression import JpegCompression
from holdfast.defences.median import Median
from holdfast.defences.viewed import ViewDefence

PAIRS: list[tuple[ViewDefence, str, dict]] = [
    *((JpegCompression(quality), "JpegCompression", {"quality": quality}) for quality in (10, 75, 95)),
    *((BitDepth(bits), "FeatureSqueezing", {"bit_depth": bits}) for bits in (1, 4, 8)),
    *((Median(size), "SpatialSmoothing", {"window_size": size}) for size in (2, 3, 4)),
]
"""ART's ``FeatureSqueezing`` is the bit depth alone, its ``SpatialSmoothing`` the median. Its ``TotalVarMin`` minimises the
unsquared distance, channel by channel with pixels of their own, by a general search: another problem, not compared."""


@pytest.mark.parametrize(("ours", "name", "options"), PAIRS, ids=[f"{name}-{ours}" for ours, name, _ in PAIRS])
def test_the_same_to_the_rounding(ours: ViewDefence, name: str, options: dict) -> None:
    peer("art")
    kind = getattr(peer("art.defences.preprocessor"), name)
    options = options | ({} if name == "SpatialSmoothing" else {"clip_values": (0.0, 1.0)})
    if name != "FeatureSqueezing":
        options["channels_first"] = True
    levels = torch.randint(0, 256, (6, 3, 20, 24), generator=torch.Generator().manual_seed(0))
    x = (levels + 0.1) / 255  # ART rounds levels down, we to the nearest
    x = x.clamp(max=1.0)
    theirs, _ = kind(**options)(x.numpy())
    torch.testing.assert_close(seen(ours, x), torch.from_numpy(np.asarray(theirs)).to(x.dtype), rtol=0, atol=1e-6)


def seen(defence: ViewDefence, x: Tensor) -> Tensor:
    return defence.view(x, torch.zeros(len(x), dtype=torch.int64))
