"""From a TOML file and ``key=value`` pairs to an experiment: validated once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from holdfast.audit.config import option
from holdfast.experiments.experiment import Experiment
from holdfast.foundation import registry, toml
from holdfast.foundation.errors import BadValue, UnknownName

Kind = TypeVar("Kind")


def configured(name: str, path: Path | None = None, pairs: Sequence[str] = ()) -> Experiment:
    """The experiment of that name with the settings of a TOML file, and over them those of ``key=value`` pairs.

    A key with a point in it sets one entry of a table: ``settings.flip=true``, ``options.width=32``.

    Raises:
        UnknownName: an experiment or a setting that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind.
        BadFile: the file is missing or is no TOML.
    """
    kind = registry.load("experiment", name)
    values = toml.read(path, "configuration", "steps = 1000") if path is not None else {}
    for key, value in map(option, pairs):
        table, point, entry = key.partition(".")
        values[table] = {**_table(values.get(table, {})), entry: value} if point else value
    return validated(kind, values, name)


def validated(kind: type[Kind], values: Mapping[str, Any], name: str) -> Kind:
    """The settings of a dataclass with these values; ``name`` is what errors call it. Raises UnknownName, BadValue."""
    known = {each.name: each for each in fields(kind)}  # pyrefly: ignore[bad-argument-type]
    for key in values:
        if key not in known:
            raise UnknownName.among(f"setting of {name}", key, known)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{key} is {first.get('input')!r}: {first['msg'].lower()}", hint=f"correct {key}") from None


def _table(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}
