"""Tells where the channels of unlabelled axes are."""

from __future__ import annotations

import numpy as np

from holdfast.data.check import CHANNELS
from holdfast.foundation.errors import BadData


def channels_first(images: np.ndarray, *, where: str) -> np.ndarray:
    """(n,H,W), (n,C,H,W) or (n,H,W,C) as (n,C,H,W), a view. The axis of size 1 or 3 is that of the channels.

    Raises:
        BadData: another rank, no axis of size 1 or 3, or two of them.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise BadData(
            f"the images of {where} have shape {images.shape}; (n, C, H, W), (n, H, W, C) or (n, H, W) is needed",
            hint="reshape them",
        )
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if first and last:
        raise BadData(
            f"the images of {where} have shape {images.shape}: the channels could come first or last",
            hint="give (images, labels) from Python, which are always (n, C, H, W)",
        )
    if not first and not last:
        raise BadData(
            f"the images of {where} have shape {images.shape}: no axis has the size 1 or 3 of grey or colour images",
            hint="give (images, labels) from Python, which are always (n, C, H, W)",
        )
    return images if first else images.transpose(0, 3, 1, 2)
