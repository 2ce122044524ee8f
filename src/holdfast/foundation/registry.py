"""Finds every component by its name, without importing it.

A kind is a folder: the files of ``holdfast/attacks/`` are the attacks. One file holds one component, a class marked
``@register``; the file's name is the component's name. Listing reads the files' docstrings with ``ast``, so that
``holdfast list`` never imports torch; loading imports the one file that is asked for. Other packages add components
through the entry-point group ``holdfast.<folder>``, whose entry names are the component names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from holdfast.foundation.errors import BadValue, UnknownName

KINDS = {
    "threat": "threats",
    "attack": "attacks",
    "objective": "objectives",
    "net": "nets",
    "model": "models.origins",
    "data": "data",
    "library": "data.libraries",
    "corruption": "corruptions",
    "perturbation": "perturbations",
    "defence": "defences",
    "detector": "detectors",
    "experiment": "experiments",
    "probe": "explain.questions",
}
"""Kind -> the package of ``holdfast`` that holds it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One component: its kind, its name, the first line of its docstring, and where it comes from."""

    kind: str
    name: str
    summary: str
    origin: str


def register(component: T) -> T:
    """Marks the one class or function of its file that carries the file's name in the registry."""
    setattr(component, "registered", True)  # noqa: B010 (a plain assignment does not type-check on a T)
    return component


def names(kind: str) -> list[str]:
    """The names of all components of a kind, in alphabetical order. Imports none of them."""
    return sorted({*_own(kind), *_foreign(kind)})


def entries(kind: str) -> list[Entry]:
    """All components of a kind with the first line of their docstrings. Imports none of them."""
    found = [Entry(kind, name, _first_line(path), "holdfast") for name, path in _own(kind).items()]
    found += [
        Entry(kind, name, f"from the package {_package(point)}", _package(point))
        for name, point in _foreign(kind).items()
        if name not in _own(kind)
    ]
    return sorted(found, key=lambda entry: entry.name)


def load(kind: str, name: str) -> Any:
    """The component of that kind and name, its file imported.

    Raises:
        UnknownName: nothing has that name; the hint gives the nearest ones.
        BadValue: a plug-in's entry point cannot be imported.
    """
    if name in _own(kind):
        module = importlib.import_module(f"holdfast.{KINDS[kind]}.{name}")
        return next(value for value in vars(module).values() if _is_component(value, module.__name__))
    if name in _foreign(kind):
        point = _foreign(kind)[name]
        try:
            return point.load()
        except Exception as error:  # whatever a foreign package does at import, the user is told which one it was
            raise BadValue(
                f"the {kind} {name!r} of the package {_package(point)} cannot be loaded: {error}",
                hint=f"repair or uninstall that package, or choose one of: {', '.join(_own(kind))}",
            ) from error
    raise UnknownName.among(kind, name, names(kind))


def pick(what: str, name: str, among: Mapping[str, T]) -> T:
    """The value of that name in a small table of functions or settings.

    Raises:
        UnknownName: the table has no such name; the hint gives the nearest ones.
    """
    if name not in among:
        raise UnknownName.among(what, name, among)
    return among[name]


def name_of(component: Any) -> str:
    """The registry name of a registered class, of its instance, or of a registered function."""
    owner = component if hasattr(component, "__module__") and hasattr(component, "__qualname__") else type(component)
    return owner.__module__.rpartition(".")[2]


def _is_component(value: Any, module: str) -> bool:
    return "registered" in getattr(value, "__dict__", {}) and getattr(value, "__module__", "") == module


@cache
def _own(kind: str) -> dict[str, Path]:
    folder = Path(__file__).parent.parent.joinpath(*KINDS[kind].split("."))
    return {path.stem: path for path in sorted(folder.glob("*.py")) if _decorated(path)}


@cache
def _foreign(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"holdfast.{KINDS[kind]}")}


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(":")[0]


@cache
def _decorated(path: Path) -> ast.ClassDef | ast.FunctionDef | None:
    """The definition in the file that stands under ``@register``; None where the file holds no component."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and any(
            isinstance(mark, ast.Name) and mark.id == "register" for mark in node.decorator_list
        ):
            return node
    return None


def _first_line(path: Path) -> str:
    node = _decorated(path)
    text = ast.get_docstring(node) if node else None
    return text.partition("\n")[0].replace("``", "") if text else ""
