"""From ``key=value`` pairs to the settings: validated once, here."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.audit.config import option
from holdfast.experiments.configure import validated
from holdfast.experiments.odds.settings import Odds


def configured(pairs: Sequence[str]) -> Odds:
    """The settings with these changes.

    Raises:
        UnknownName: a setting that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind, or outside its range.
    """
    return validated(Odds, dict(map(option, pairs)), "odds")
