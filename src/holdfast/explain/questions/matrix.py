"""Points of some rows shown to some nets: which images each net gets wrong there, as a table and as a heat matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import torch
from torch import Tensor

from holdfast.experiments.outcome import Cell, Column
from holdfast.explain.case import Batch, Case, Net
from holdfast.explain.compare import mean, share
from holdfast.explain.found import Found, Table
from holdfast.foundation.stats import Interval
from holdfast.report.charts import COLOURS, INK, MUTED, PERCENT, TRACK, table

CELL = (110, 28)
"""Pixels: width and height of a cell."""
NAMES = 195
"""Pixels: the room for the names of rows."""
_ARRAYS = ("wrong", "counted", "rms")


class Row(NamedTuple):
    """What is shown to all nets under one name: a point of every image or more, (n, C, H, W) each; an image is lost where a
    net gets any of them wrong. ``made``, (n,) bool: for which images there is such a point."""

    name: str
    points: tuple[Tensor, ...]
    made: np.ndarray


@dataclass(frozen=True)
class Matrix:
    """S rows of points by T nets, image by image.

    Args:
        title: what the points are.
        rows: the names of the rows; ``nets``: of the nets.
        wrong: which images the net gets wrong at any of the row's points, (S, T, n) bool.
        counted: which images the row has a point for and the net classifies rightly when clean, (S, T, n) bool.
        rms: the root mean square over pixel values of each row's perturbations, (S, n); NaN where there are none.
    """

    title: str
    rows: tuple[str, ...]
    nets: tuple[str, ...]
    wrong: np.ndarray
    counted: np.ndarray
    rms: np.ndarray

    def share(self, row: int, net: int, confidence: float = 0.95) -> Interval:
        """The share of the images that count which the net gets wrong."""
        return share(self.wrong[row, net][self.counted[row, net]], confidence=confidence)

    def table(self, case: Case) -> Table:
        """A row for each, with its mean distortion, and a column for each net."""
        rows: list[tuple[Cell, ...]] = []
        for s, name in enumerate(self.rows):
            shares = (self.share(s, t, case.confidence) for t in range(len(self.nets)))
            distortion = mean(self.rms[s], seed=case.seed, confidence=case.confidence)
            rows.append((name, distortion, *(each if each.n else "none" for each in shares)))
        caption = (
            f"{self.title}: the share that a net gets wrong, with Wilson's interval, of the images that it classifies "
            "rightly when clean and that the row has a point for; and the points' mean distortion."
        )
        columns = ("points of", "distortion, RMS", *(f"{name} wrong" for name in self.nets))
        return Table(caption, tuple(map(Column, columns)), tuple(rows))


def shown(title: str, rows: Sequence[Row], nets: Sequence[Net], batches: Sequence[Batch]) -> Matrix:
    """Shows the points of all rows to all nets; ``batches`` are the images as each net takes them."""
    size = len(rows), len(nets), len(batches[0].y)
    wrong, counted, rms = np.zeros(size, bool), np.zeros(size, bool), np.full((size[0], size[2]), np.nan)
    for t, (net, batch) in enumerate(zip(nets, batches)):
        right = (net.logits(batch.x).argmax(1) == batch.y).cpu().numpy()
        for s, row in enumerate(rows):
            counted[s, t] = row.made & right
            for point in row.points:
                wrong[s, t] |= (net.logits(point.to(batch.x)).argmax(1) != batch.y).cpu().numpy()
    for s, row in enumerate(rows):
        deltas = [(point - batches[0].x.to(point)).flatten(1).double() for point in row.points]
        lengths = torch.stack([each.square().mean(1).sqrt() for each in deltas]).mean(0).cpu().numpy()
        rms[s] = np.where(row.made, lengths, np.nan)
    return Matrix(title, tuple(row.name for row in rows), tuple(map(called, nets)), wrong, counted, rms)


def called(net: Net) -> str:
    """A net's name in a matrix, which marks the control."""
    return f"{net.name} (control)" if net.role == "untrained" else net.name


def packed(matrices: Mapping[str, Matrix]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Matrices as the arrays and the words of an answer."""
    arrays = {f"{key}/{name}": getattr(each, name) for key, each in matrices.items() for name in _ARRAYS}
    words = {key: [each.title, list(each.rows), list(each.nets)] for key, each in matrices.items()}
    return arrays, words


def unpacked(found: Found) -> tuple[Matrix, ...]:
    """The matrices of an answer that holds nothing else."""
    return tuple(
        Matrix(title, tuple(rows), tuple(nets), *(found.arrays[f"{key}/{name}"] for name in _ARRAYS))
        for key, (title, rows, nets) in found.words.items()
    )


def heat(matrix: Matrix, *, legend: bool = True) -> Any:
    """Shares in colour and in figures, on one scale from 0 to 1 in every drawing, and the distortions before them."""
    width, height = CELL
    tall = height * len(matrix.rows)
    lengths, cells = [], []
    for s, name in enumerate(matrix.rows):
        known = matrix.rms[s][np.isfinite(matrix.rms[s])]
        lengths.append({"row": name, "column": "RMS", "text": f"{known.mean():.3f}" if len(known) else "none"})
        for t, net in enumerate(matrix.nets):
            found = matrix.share(s, t)
            # Of few images a share says little: how few is written beside it.
            text = f"{100 * found.value:.0f} % of {found.n}" if found.n else "none"
            cells.append({"row": name, "net": net, "share": found.value if found.n else None, "text": text})
    head = alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False, labelLimit=width)
    down = alt.Y("row:N").scale(domain=list(matrix.rows))
    # The same room for names in every drawing, so that matrices below one another stand in line.
    names = down.title("points of").axis(
        labelLimit=NAMES,
        minExtent=NAMES,
        maxExtent=NAMES,
        ticks=False,
        domain=False,
        titleAngle=0,
        titleAlign="right",
        titleX=-5,
        titleY=-7,
    )
    left = alt.Chart(table(lengths)).mark_text(fontSize=12, color=INK)
    left = left.encode(y=names, x=alt.X("column:N", axis=head).title(None), text="text:N")
    key = alt.Legend(labelExpr=PERCENT, tickCount=3, gradientLength=90, titleColor=MUTED, titleFontWeight="normal")
    colour = (
        alt.Color("share:Q")
        .title("wrong")
        .scale(domain=[0, 1], range=["#ffffff", COLOURS[0]], interpolate="rgb")
        .legend(key if legend else None)
    )
    across = alt.X("net:N", axis=head).title("tested net").scale(domain=list(matrix.nets))
    base = alt.Chart(table(cells)).encode(x=across, y=down.axis(None))
    squares = base.mark_rect(stroke=TRACK).encode(color=colour)
    ink = alt.condition("datum.share > 0.55", alt.value("#ffffff"), alt.value(INK))
    texts = base.mark_text(fontSize=12).encode(text="text:N", color=ink)
    sized = alt.layer(squares, texts).properties(width=width * len(matrix.nets), height=tall)
    title = alt.Title(matrix.title, anchor="start", fontSize=13, color=INK, offset=8)
    return alt.hconcat(left.properties(width=60, height=tall), sized, spacing=8, title=title)
