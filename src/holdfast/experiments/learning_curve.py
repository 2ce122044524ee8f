"""How trainings went: accuracy on held-out images against the minutes that they took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.foundation.stats import wilson
from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.training.folder import LOG, RUN, EpochRecord, TrainingInfo


def learning_curve(folders: Sequence[Path], names: Sequence[str] = ()) -> Any:
    """The clean accuracy, and that after PGD-10, after every epoch of the trainings in these folders, with bands.

    Args:
        folders: of finished or running trainings.
        names: what they are called; by default the folders' names.
    """
    called = list(names) or [folder.name for folder in folders]
    clean, robust = [], []
    for folder, name in zip(folders, called):
        n = read_document(folder / RUN, TrainingInfo).held_out
        for record in whole(folder / LOG, EpochRecord):
            for points, value in ((clean, record.clean), (robust, record.robust)):
                points.append(Point(name, record.seconds / 60, wilson(round(value * n), n)))
    panels = [Panel("clean", clean), Panel("after PGD-10", robust)]
    return figure(lines(panels, x="minutes", y="held-out accuracy", from_zero=False, series=called))
