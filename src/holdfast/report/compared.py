"""The page of a comparison: its verdict, curves, differences, what changed, and the images on which the runs disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import altair as alt
from safetensors import SafetensorError, safe_open

from holdfast.foundation import units
from holdfast.foundation.errors import BadFile
from holdfast.records.comparison import Against, Comparison, Flip, Part, Row
from holdfast.records.known import within
from holdfast.records.store import FINAL_POINTS, GALLERY, read_info
from holdfast.report import charts, pictures, wording
from holdfast.report.frame import Figure, figure, write_page

PICTURED = 24
"""The most images on which the runs disagree that a page shows with pictures."""
LISTED = 500
"""The most that it lists."""

ALPHA = 0.05
"""The adjusted p-value above which two runs are not told apart: one minus the coverage of the intervals."""


@dataclass(frozen=True)
class Shown:
    """An image on which the runs disagree, with pictures as data URIs: ``clean``, and for each run the image that broke it;
    empty where it was not stored, or nothing broke it."""

    flip: Flip
    clean: str
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the comparison with its drawings. ``classes``: their names, empty where none are known."""

    part: Part
    curve: Figure | None
    differences: Figure
    shown: Sequence[Shown]
    classes: Sequence[str]


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Writes a comparison as one HTML file that needs no network and runs no script; returns its path.

    Raises:
        BadFile: the stored images of a run are damaged.
        StorageError: ``out`` cannot be written.
    """
    labels = [run.label for run in comparison.runs]
    return write_page(
        "compare.html",
        out,
        comparison=comparison,
        labels=labels,
        sections=[_section(part, comparison) for part in comparison.parts],
        colour={label: place % len(charts.COLOURS) + 1 for place, label in enumerate(labels)},
        verdict=verdict,
        holders=lambda flip: [label for label, right in zip(labels, flip.right) if right],
        LISTED=LISTED,
    )


def verdict(row: Row, against: Against) -> str:
    """What is said of a run: ``better`` or ``worse`` where interval and test agree on it, else ``not told apart``."""
    low, high = against.difference.low, against.difference.high
    if low <= 0 <= high or (against.p_adjusted is not None and against.p_adjusted > ALPHA):
        return "not told apart"
    return "better" if (low > 0) == row.higher_is_better else "worse"


def differences(part: Part, labels: Sequence[str], *, width: int) -> alt.LayerChart:
    """Every figure of the other runs minus that of the first, with its 95 % interval; a row a figure, a mark a run."""
    order = [row.title for row in part.rows]
    rows = [
        {"measure": row.title, "run": label, **against.difference.model_dump()}
        for row in part.rows
        for label, against in zip(labels[1:], row.against)
    ]
    names = list(labels[1:])
    colours = charts.cycle(charts.COLOURS, len(labels))[1:]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=width - 80) if len(names) > 1 else None
    colour = alt.Color("run:N").scale(domain=names, range=colours).legend(legend)
    room = 190 if width > 400 else 130
    y = (
        alt.Y("measure:N")
        .title(None)
        .scale(domain=order)
        .axis(ticks=False, domain=False, labelPadding=8, labelLimit=room)
    )
    expression = "(datum.value > 0 ? '+' : '') + format(datum.value * 100, '~r')"
    x = alt.X("value:Q").title("difference, in points").axis(labelExpr=expression, tickCount=5, grid=True)
    base = alt.Chart(charts.table(rows)).encode(y=y, color=colour)
    if len(names) > 1:
        base = base.encode(yOffset=alt.YOffset("run:N").scale(domain=names))
    zero = alt.Chart(charts.table([{"value": 0.0}])).mark_rule(color=charts.INK).encode(x="value:Q")
    ranges = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True, size=52, opacity=1).encode(x=x)
    step = 26 if len(names) == 1 else 14 * len(names) + 8
    layers = alt.layer(zero, ranges, dots).properties(width=width - room - 30, height=step * len(order))
    return charts.styled(layers)


def _section(part: Part, comparison: Comparison) -> Section:
    labels = [run.label for run in comparison.runs]
    told = "; ".join(
        f"{row.title}: "
        + ", ".join(f"{label} {wording.points(against.difference)}" for label, against in zip(labels[1:], row.against))
        for row in part.rows
    )
    drawn = figure(
        lambda width: differences(part, labels, width=width), f"Differences to {labels[0]}, in points. {told}."
    )
    if part.kind != "worst case":
        return Section(part, None, drawn, [], [])
    series = {label: [(row.eps or 0.0, row.rates[place]) for row in part.rows] for place, label in enumerate(labels)}
    head = part.headline.eps
    spoken = "; ".join(
        f"{label}: " + ", ".join(f"{wording.percent(rate.value)} at {units.show(eps)}" for eps, rate in found)
        for label, found in series.items()
    )
    curve = figure(
        lambda width: charts.curves(series, marks=[] if head is None else [head], width=width),
        f"Robust accuracy against eps. {spoken}.",
    )
    folders = [Path(run.folder) for run in comparison.runs]
    classes = read_info(folders[0]).data.class_names
    return Section(part, curve, drawn, _shown(part.flips, folders, eps=head or 0.0), classes)


def _shown(flips: Sequence[Flip], folders: Sequence[Path], *, eps: float) -> list[Shown]:
    """Disagreements that have pictures, of both directions where there are both; those whose clean image is kept lead."""
    stored = [_Stored.of(folder / FINAL_POINTS, "points", eps=eps) for folder in folders]
    kept = [_Stored.of(folder / GALLERY, "clean") for folder in folders]
    seen = [flip for flip in flips if any(flip.id in each.places for each in stored)]
    seen.sort(key=lambda flip: (not any(flip.id in each.places for each in kept), flip.id))
    lost, gained = ([flip for flip in seen if flip.right[0] is right] for right in (True, False))
    chosen = lost[: max(PICTURED // 2, PICTURED - len(gained))]
    chosen += gained[: PICTURED - len(chosen)]
    ids = [flip.id for flip in chosen]
    broken = [each.uris(ids) for each in stored]
    clean: dict[int, str] = {}
    for each in kept:
        clean |= each.uris(ids)
    return [Shown(flip, clean.get(flip.id, ""), tuple(each.get(flip.id, "") for each in broken)) for flip in chosen]


@dataclass(frozen=True)
class _Stored:
    """Images in a file of a run: sample -> its place in the tensor ``name`` (m, C, H, W)."""

    path: Path
    name: str
    places: Mapping[int, int]

    @classmethod
    def of(cls, path: Path, name: str, *, eps: float | None = None) -> _Stored:
        """Those in ``path``, none where it does not exist; with ``eps`` the points of that radius or a smaller one."""
        if not path.exists():
            return cls(path, name, {})
        with _reading(path), safe_open(path, framework="np") as file:
            ids = file.get_tensor("ids").tolist()
            radii = file.get_tensor("eps").tolist() if eps is not None else ids
        inside = [eps is None or within(radius, eps) for radius in radii]
        return cls(path, name, {sample: place for place, sample in enumerate(ids) if inside[place]})

    def uris(self, ids: Sequence[int]) -> dict[int, str]:
        """The images of those of these samples that are here, as data URIs."""
        wanted = [sample for sample in ids if sample in self.places]
        if not wanted:
            return {}
        with _reading(self.path), safe_open(self.path, framework="np") as file:
            images = file.get_slice(self.name)
            taken = {sample: images[self.places[sample] : self.places[sample] + 1][0] for sample in wanted}
            return {sample: pictures.data_uri(image) for sample, image in taken.items()}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, IndexError) as error:
        raise BadFile(f"{path} is damaged: {error}", hint="run the audit again: it goes on where it stopped") from None
