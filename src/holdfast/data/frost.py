"""The frost photographs of the ImageNet-C generator, which are not ours to ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from holdfast.data.decode import decode
from holdfast.foundation.errors import BadFile

NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg")


def frost_photographs(folder: Path) -> tuple[np.ndarray, ...]:
    """The photographs, (3, H, W) uint8 each, in the benchmark's order; the sixth is never used and may be missing.

    Raises:
        BadFile: one is missing or is no image.
    """
    missing = [name for name in NAMES[:5] if not (folder / name).is_file()]
    if missing:
        raise BadFile(
            f"{folder} does not hold {', '.join(missing)}",
            hint="give the folder of ImageNet-C's frost1.png to frost6.jpg, or leave --frost-dir out: then a procedural "
            "frost is used, and the number is not the published mCE",
        )
    return tuple(decode(folder / name, channels=3, where=str(folder / name)) for name in NAMES[:5])
