"""Published trainings as data: a TOML file each, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.objectives.objective import Objective
from holdfast.threats.threat import Threat
from holdfast.threats.union import parts as sets
from holdfast.training.published import HERE, WORDS, read, summaries
from holdfast.training.recipe import Recipe

_TABLES = ("objective", "attack", "options", "later")


def names() -> dict[str, str]:
    """Recipe -> what it is, of those that come with holdfast."""
    return summaries()


def recipe(given: str, threat: Threat, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of that name, or in that TOML file, for a threat set.

    A file holds ``objective`` (a registered name) with its ``[options]``, the inner ``[attack]`` (``name`` and its options)
    where the objective takes one, and any field of `Recipe`. Each table ``[[later]]`` holds ``from``, a share of the steps,
    and what is different from there on: its own ``objective``, ``options`` and ``attack``, merged into those before.

    Args:
        given: a name, or the path of a file that ends in ``.toml``.
        threat: the set to train against.
        overrides: what wins over the file's: fields of `Recipe`, ``objective``, and entries of its tables, ``options.sigma``
            or ``attack.steps``.

    Raises:
        UnknownName: a recipe, objective, attack or key that does not exist, with the nearest names.
        BadValue: an option of a wrong kind.
        BadFile: a file that is missing or no TOML.
    """
    own = names()
    path = Path(given) if given.endswith(".toml") else HERE / f"{given}.toml"
    if not given.endswith(".toml") and given not in own:
        raise UnknownName.among("recipe", given, own)
    values = {key: value for key, value in read(path).items() if key not in WORDS}
    overrides = _nested(overrides)
    known = {each.name for each in fields(Recipe)} - {"objective", "threat", "later"}
    for key in (*values, *overrides):
        if key not in known and key not in _TABLES:
            raise UnknownName.among(f"key of the recipe {given}", key, [*known, *_TABLES, *WORDS])
    parts: dict[str, Any] = {
        key: _merged(values.pop(key, None), overrides.pop(key, None)) for key in ("objective", "options", "attack")
    }
    objective, later = _objective(parts, threat), []
    for table in values.pop("later", []):
        start = table.get("from")
        for key in table:
            if key not in (*parts, "objective", "options", "attack", "from"):
                raise UnknownName.among(f"key of [[later]] in {given}", key, ["from", "objective", "options", "attack"])
        parts = {key: _merged(parts.get(key), table.get(key)) for key in ("objective", "options", "attack")}
        later.append((start, _objective(parts, threat)))
    settings: dict[str, Any] = {"epochs": 20, **values, **overrides}
    try:
        return Recipe(objective=objective, threat=threat, later=tuple(later), **settings)
    except TypeError as error:
        raise BadValue(
            f"the recipe {given} cannot be made: {error}", hint="give numbers where numbers are meant"
        ) from None


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """``{"attack.steps": 3}`` as ``{"attack": {"steps": 3}}``."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        table, point, entry = key.partition(".")
        found[table] = {**found.get(table, {}), entry: value} if point else value
    return found


def _merged(before: Any, table: Any) -> Any:
    if (
        isinstance(before, dict)
        and isinstance(table, dict)
        and table.get("name", before.get("name")) == before.get("name")
    ):
        return {**before, **table}
    return before if table is None else table


def _objective(parts: Mapping[str, Any], threat: Threat) -> Objective:
    options = dict(parts.get("options") or {})
    if parts.get("attack"):
        table = dict(parts["attack"])
        options["attack"] = _made(registry.load("attack", str(table.pop("name", "pgd"))), table)
        for part in sets(threat):
            options["attack"].check(part)
    return _made(registry.load("objective", str(parts.get("objective") or "standard")), options)


def _made(kind: Any, options: dict[str, Any]) -> Any:
    known = {each.name for each in fields(kind)}
    for key in options:
        if key not in known:
            raise UnknownName.among(f"option of {registry.name_of(kind)}", key, known)
    try:
        return kind(**options)
    except TypeError as error:
        raise BadValue(
            f"{registry.name_of(kind)} cannot be made: {error}", hint=f"its options are: {', '.join(sorted(known))}"
        ) from None
