"""A classifier as a search over parameters sees it."""

from __future__ import annotations

from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows


def rendered(model: Classifier, rows: Rows) -> Classifier:
    """Points of the threat set -> logits of the images that they stand for (see `holdfast.threats.threat.Threat.render`)."""
    return lambda points: model(rows.threat.render(rows.x0, points))
