"""Makes the pictures of docs/explain.md from a demo that was asked why: ``make gallery``.

    holdfast demo --explain --out runs/demo
    python docs/gallery.py runs/demo/robust/explain docs/images/explain
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDEST = 1600
"""Pixels: wider pictures are shrunk."""


def gallery(explanation: Path, out: Path) -> list[Path]:
    """Every figure of an explanation as a small PNG, ``PROBE_FIGURE.png``."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for path in sorted(explanation.glob("*/*.png")):
        picture = Image.open(path).convert("RGB")
        if picture.width > WIDEST:
            picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
        target = out / f"{path.parent.name}_{path.name}"
        picture.quantize(192).save(target, optimize=True)
        made.append(target)
    return made


if __name__ == "__main__":
    for each in gallery(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"{each}: {each.stat().st_size / 1024:.0f} KiB")
