"""Published trainings as data: a TOML file each, with its source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile, BadValue, UnknownName
from holdfast.threats.threat import Threat
from holdfast.training.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HERE = Path(__file__).parent
_WORDS = ("about", "source")
_TABLES = ("objective", "attack", "options")


def names() -> dict[str, str]:
    """Recipe -> what it is, of those that come with holdfast."""
    return {path.stem: _read(path).get("about", "") for path in sorted(_HERE.glob("*.toml"))}


def recipe(given: str, threat: Threat, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of that name, or in that TOML file, for a threat set.

    A file holds ``objective`` (a registered name) with its ``[options]``, the inner ``[attack]`` (``name`` and its options)
    where the objective takes one, and any field of `Recipe`.

    Args:
        given: a name, or the path of a file that ends in ``.toml``.
        threat: the set to train against.
        overrides: fields of `Recipe` that win over the file's.

    Raises:
        UnknownName: a recipe, objective, attack or key that does not exist, with the nearest names.
        BadValue: an option of a wrong kind.
        BadFile: a file that is missing or no TOML.
    """
    own = names()
    path = Path(given) if given.endswith(".toml") else _HERE / f"{given}.toml"
    if not given.endswith(".toml") and given not in own:
        raise UnknownName.among("recipe", given, own)
    values = {key: value for key, value in _read(path).items() if key not in _WORDS}
    known = {each.name for each in fields(Recipe)} - {"objective", "threat"}
    for key in (*values, *overrides):
        if key not in known and key not in _TABLES:
            raise UnknownName.among(f"key of the recipe {given}", key, [*known, *_TABLES, *_WORDS])
    options = dict(values.pop("options", {}))
    if "attack" in values:
        table = dict(values.pop("attack"))
        attack = registry.load("attack", str(table.pop("name", "pgd")))
        options["attack"] = _made(attack, table)
        options["attack"].check(threat)
    objective = _made(registry.load("objective", str(values.pop("objective", "standard"))), options)
    settings = {**values, **overrides}
    settings.setdefault("epochs", 20)
    try:
        return Recipe(objective=objective, threat=threat, **settings)
    except TypeError as error:
        raise BadValue(
            f"the recipe {given} cannot be made: {error}", hint="give numbers where numbers are meant"
        ) from None


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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"the recipe {path} does not exist", hint="give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadFile(f"the recipe {path} cannot be read: {error}", hint="write lines such as lr = 0.002") from None
