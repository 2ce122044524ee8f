"""The part of a page about a defence at inference: what is read for it, and what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from holdfast.foundation.errors import BadFile
from holdfast.records.defended import (
    FOLDER,
    SUMMARY,
    ByAttack,
    DefendedInfo,
    DefendedSummary,
    Difference,
    attacked,
    read_defended,
    read_defended_summary,
)
from holdfast.records.schema import CLEAN, Rate
from holdfast.report import charts, wording
from holdfast.report.frame import figure

COLUMNS = ("Undefended", "Defended, oblivious attack", "Defended, adaptive attack")
ESTIMANDS = (
    ("mean", "Attacked, mean of fresh draws"),
    ("worst", "Worst of {}"),
    ("majority", "Majority"),
    ("fixed", "Fixed seed"),
)


@dataclass(frozen=True)
class Defended:
    """A finished audit of a defence."""

    label: str
    info: DefendedInfo
    summary: DefendedSummary

    @property
    def called(self) -> str:
        """The defence in words."""
        return told(self.info.defence)

    @property
    def columns(self) -> tuple[Rate, Rate, Rate]:
        """The accuracy of one answer in the three columns."""
        summary = self.summary
        return summary.undefended, summary.oblivious.mean, summary.adaptive.mean

    @property
    def rows(self) -> list[tuple[str, list[Rate | None]]]:
        """The table of the estimands: a heading and the three columns; of a defence that draws nothing they are one."""
        summary = self.summary
        if not summary.randomised:
            return [("Attacked", list(self.columns))]
        sides = summary.oblivious, summary.adaptive
        rows = [(title.format(summary.tries), [getattr(side, key) for side in sides]) for key, title in ESTIMANDS]
        return [(title, [None if place else summary.undefended, *rates]) for place, (title, rates) in enumerate(rows)]


def has_defended(folder: Path) -> bool:
    """Whether a finished audit of a defence lies in the folder."""
    return (folder / FOLDER / SUMMARY).exists()


def read_defence(folder: Path) -> Defended:
    """The audit of a defence in ``folder``.

    Raises:
        BadFile: a file is missing or damaged, or the outcomes do not agree with the summary.
    """
    info, summary = read_defended(folder), read_defended_summary(folder)
    clean = [line for line in attacked(folder) if line.stage == CLEAN]
    right = sum(said == label for line in clean for said, label in zip(line.undefended, line.label))
    if right != round(summary.undefended_clean.value * summary.n):
        raise BadFile(
            f"{folder / FOLDER}: summary.json and outcomes.jsonl disagree about the clean images",
            hint="delete summary.json and run the audit again: it concludes anew",
        )
    return Defended(info.name, info, summary)


def told(name: str) -> str:
    """The name of a defence in words."""
    return name.replace("_", " ").replace("jpeg", "JPEG")


def headline(summary: DefendedSummary) -> str:
    """What the defence did, in one sentence."""
    kept, shown, stood = (
        wording.percent(rate.value) for rate in (summary.undefended, summary.oblivious.mean, summary.adaptive.mean)
    )
    return (
        f"Of {wording.images(summary.n)} the undefended model gets {kept} right under attack. Behind "
        f"{told(summary.defence)} it gets {shown} right when the attack does not know of the defence, and {stood} when it "
        f"does: {summary.verdict} ({points(summary.gain)})."
    )


def flattery(summary: DefendedSummary) -> ByAttack | None:
    """The oblivious attack by which the defence would seem to gain most; None where none shows a gain."""
    best = max(summary.by_attack, key=lambda each: each.defended.value - each.undefended.value)
    return best if best.defended.value > best.undefended.value else None


def points(found: Difference) -> str:
    """A paired difference in points, with its interval."""
    value, low, high = (f"{100 * each:+.1f}".replace("-", "−") for each in (found.value, found.low, found.high))
    return f"{value} points, {low} to {high}"


def columns_chart(runs: Sequence[Defended], *, width: int) -> alt.LayerChart:
    """The three columns with their intervals, hollow marks for clean images; one row a column, one colour a model."""
    labels = [run.label for run in runs]
    rows = []
    for run in runs:
        cleans = run.summary.undefended_clean, run.summary.clean.mean, run.summary.clean.mean
        for name, rate, clean in zip(COLUMNS, run.columns, cleans):
            rows.append(
                {
                    "run": run.label,
                    "column": name,
                    "value": rate.value,
                    "low": rate.low,
                    "high": rate.high,
                    "clean": clean.value,
                }
            )
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=width - 80) if len(runs) > 1 else None
    colour = alt.Color("run:N").scale(domain=labels, range=charts.cycle(charts.COLOURS, len(labels))).legend(legend)
    y = (
        alt.Y("column:N")
        .title(None)
        .scale(domain=COLUMNS)
        .axis(ticks=False, domain=False, labelPadding=10, labelLimit=170)
    )
    x = alt.X("value:Q").title(None).scale(domain=[0, 1]).axis(labelExpr=charts.PERCENT, tickCount=5)
    base = alt.Chart(charts.table(rows)).encode(y=y, color=colour)
    if len(runs) > 1:
        base = base.encode(yOffset=alt.YOffset("run:N").scale(domain=labels))
    ranges = base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=alt.X("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x)
    clean = base.mark_point(filled=False, size=60, strokeWidth=1.6).encode(x="clean:Q")
    step = 34 if len(runs) == 1 else 18 * len(runs) + 12
    return charts.styled(alt.layer(ranges, clean, dots).properties(width=width - 200, height=step * len(COLUMNS)))


def budget_chart(run: Defended, *, width: int, colour: str) -> alt.LayerChart:
    """The defended accuracy against the gradients that the adaptive attack spent, and the undefended one beside it."""
    rows = [
        {
            "gradients": level.gradients,
            "value": level.accuracy.value,
            "low": level.accuracy.low,
            "high": level.accuracy.high,
        }
        for level in run.summary.curve
    ]
    places = [row["gradients"] for row in rows]
    x = (
        alt.X("gradients:Q")
        .title("gradients for an image, on average")
        .scale(type="log", nice=False, padding=24)
        .axis(grid=False, values=places, format=",d")
    )
    y = alt.Y("value:Q").title(None).scale(domain=[0, 1]).axis(labelExpr=charts.PERCENT, tickCount=5)
    base = alt.Chart(charts.table(rows)).encode(x=x)
    ranges = base.mark_rule(strokeWidth=3, opacity=0.45, color=colour).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2, color=colour).encode(y=y)
    dots = base.mark_point(filled=True, size=60, opacity=1, color=colour).encode(y=y)
    shown = {"oblivious attack": run.summary.oblivious.mean.value, "undefended": run.summary.undefended.value}
    # Two lines that meet would write over each other: the upper one's word stands above it, the lower one's below.
    upper, lower = (
        {"value": value, "word": word} for value, word in sorted(((v, w) for w, v in shown.items()), reverse=True)
    )
    rules = alt.Chart(charts.table([upper, lower])).mark_rule(color=charts.MUTED, strokeDash=[2, 3]).encode(y="value:Q")
    above, below = (
        alt.Chart(charts.table([mark])).encode(y="value:Q", x=alt.value(0.27 * (width - 60)), text="word:N")
        for mark in (upper, lower)
    )
    look: dict[str, Any] = {"align": "center", "color": charts.MUTED, "fontSize": 11}
    words = above.mark_text(baseline="bottom", dy=-4, **look), below.mark_text(baseline="top", dy=5, **look)
    return charts.styled(
        alt.layer(rules, ranges, line, dots, *words).properties(width=width - 60, height=220 if width > 400 else 190)
    )


def context(runs: list[Defended]) -> dict[str, Any]:
    """What the template of the section needs."""
    spoken = "; ".join(
        f"{run.label}: "
        + ", ".join(f"{name} {wording.percent(rate.value)}" for name, rate in zip(COLUMNS, run.columns))
        for run in runs
    )
    curves = []
    for place, run in enumerate(runs):
        levels = run.summary.curve
        colour = charts.COLOURS[place % len(charts.COLOURS)]
        told_levels = ", ".join(f"{wording.percent(each.accuracy.value)} at {each.gradients}" for each in levels)
        drawn = len(levels) > 1 and all(level.gradients for level in levels)
        chart = (
            figure(
                lambda width, run=run, colour=colour: budget_chart(run, width=width, colour=colour),
                f"Defended accuracy against gradients. {told_levels}.",
            )
            if drawn
            else None
        )
        curves.append((run, chart))
    return {
        "chart": figure(lambda width: columns_chart(runs, width=width), f"Accuracy under attack. {spoken}."),
        "curves": curves,
        "names": COLUMNS,
        "points": points,
        "flattery": flattery,
        "headline": headline,
    }
