"""Images as PNG data URIs, and the amplified difference of two of them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

SMALL = 64
"""Images up to this many pixels a side are embedded as they are; the page enlarges them without smoothing."""
SHRUNK = 96
"""Larger ones are shrunk to this many pixels a side, so that a page stays small."""


def data_uri(image: np.ndarray, *, smooth: bool = True) -> str:
    """A float image (C, H, W) in [0, 1] as a PNG data URI.

    One channel is shown in grey, three in colour, any other number by its mean. A large image is shrunk: by averaging,
    or, where ``smooth`` is False, by dropping pixels, so that a noise pattern does not average out.
    """
    array = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1)
    array = array if array.shape[0] in (1, 3) else array.mean(axis=0, keepdims=True)
    pixels = np.rint(array * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(picture.size) > SMALL:
        picture.thumbnail(
            (SHRUNK, SHRUNK), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST, reducing_gap=None
        )
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def amplification(clean: np.ndarray, adversarial: np.ndarray) -> int:
    """The whole factor that brings the largest of all differences close to, and not over, half the range of grey."""
    largest = float(np.nan_to_num(np.abs(adversarial.astype(np.float64) - clean)).max(initial=0.0))
    return max(1, min(1000, int(0.5 / largest + 1e-6))) if largest > 0 else 1


def difference(clean: np.ndarray, adversarial: np.ndarray, *, factor: int) -> np.ndarray:
    """``factor`` times the change, around mid-grey: grey is unchanged, brighter was raised, darker was lowered."""
    return (0.5 + factor * (adversarial.astype(np.float64) - clean)).clip(0, 1)
