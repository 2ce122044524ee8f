"""From ``key=value`` pairs to the settings: validated once, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from holdfast.audit.config import option
from holdfast.experiments.odds.settings import Odds
from holdfast.foundation.errors import BadValue, UnknownName


def configured(pairs: Sequence[str]) -> Odds:
    """The settings with these changes.

    Raises:
        UnknownName: a setting that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind, or outside its range.
    """
    values = dict(map(option, pairs))
    known = {each.name: each for each in fields(Odds)}
    for key in values:
        if key not in known:
            raise UnknownName.among("setting of odds", key, known)
    try:
        return TypeAdapter(Odds).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{key} is {first.get('input')!r}: {first['msg'].lower()}", hint=f"correct {key}") from None
