"""A search that ended, as the engine reports it and as the records have it."""

from __future__ import annotations

import numpy as np

from holdfast.ascent.verdict import Ended, Verdict
from holdfast.records.schema import Record

_SHARED = ("label", "fooled", "predicted", "value", "margin", "distance", "steps", "forwards", "backwards")


def ended(record: Record, position: int) -> Ended:
    """A search that an earlier session finished, of the sample that is now at that position."""
    return Ended(position, record.search, **{field: getattr(record, field) for field in _SHARED})


def recorded(event: Ended, sample: int, stage: str, eps: float) -> Record:
    """What is written of it; its point is written beside it."""
    values = {field: getattr(event, field) for field in _SHARED}
    return Record(
        id=sample,
        stage=stage,
        eps=eps,
        search=event.search,
        final=isinstance(event, Verdict),
        **values,
    )


def point(event: Ended) -> np.ndarray | None:
    """The point that is written, (C, H, W): that of a search that fooled."""
    return event.x.cpu().numpy() if event.fooled and event.x is not None else None
