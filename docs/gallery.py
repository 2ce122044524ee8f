"""Makes the pictures of docs/explain.md from a demo that was asked why: ``make gallery``.

holdfast demo --explain --out runs/demo
python docs/gallery.py runs/demo/robust/explain docs/images/explain
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

SHOWN = (
    "restarts/losses",
    "decision_boundary/slices",
    "three_images/planes",
    "loss_surface/relief",
    "gradients/gradient",
    "large_radius/film_l2",
    "units/top_images_1",
    "units/purity",
    "lipschitz/brackets",
    "frequencies/margins",
    "frequencies/error_map",
    "transfer/matrices",
    "mixup/mixing_1",
)
WIDEST, COLOURS = 1000, 128
"""Pixels: wider pictures are shrunk. So many colours are kept."""


def gallery(explanation: Path, out: Path) -> list[Path]:
    """The figures that the page shows as small PNG files, ``PROBE_FIGURE.png``."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name in SHOWN:
        picture = Image.open(explanation / f"{name}.png").convert("RGB")
        if picture.width > WIDEST:
            picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
        target = out / f"{name.replace('/', '_')}.png"
        picture.quantize(COLOURS).save(target, optimize=True)
        made.append(target)
    return made


if __name__ == "__main__":
    for each in gallery(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"{each}: {each.stat().st_size / 1024:.0f} KiB")
