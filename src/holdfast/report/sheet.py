"""A contact sheet: one image under every corruption and severity, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, NAME, HEAD = 96, 6, 168, 28
"""Pixels: of a picture (small images are enlarged, large ones shrunk to it), between two, of the names, of the heading."""


def contact_sheet(
    clean: np.ndarray, rows: Sequence[tuple[str, np.ndarray]], severities: Sequence[int], out: Path
) -> Path:
    """Draws the clean image (C,H,W) and, in a row each, (name, (severities,C,H,W)), uint8, into the file ``out``."""
    columns = 1 + len(severities)
    size = (NAME + columns * (SIDE + GAP), HEAD + len(rows) * (SIDE + GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, head in enumerate(["clean", *map(str, severities)]):
        pen.text((NAME + place * (SIDE + GAP) + SIDE / 2, HEAD / 2), head, fill="#555555", font=font, anchor="mm")
    for row, (name, images) in enumerate(rows):
        top = HEAD + row * (SIDE + GAP)
        pen.text((NAME - 12, top + SIDE / 2), name.replace("_", " "), fill="#222222", font=font, anchor="rm")
        for place, image in enumerate([clean, *images]):
            sheet.paste(_picture(image), (NAME + place * (SIDE + GAP), top))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, format="PNG")
    return out


def _picture(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    how = Image.Resampling.NEAREST if max(picture.size) < SIDE else Image.Resampling.BOX
    return picture.convert("RGB").resize((SIDE, SIDE), how)
