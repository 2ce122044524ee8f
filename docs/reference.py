"""The reference: a page for each kind of thing in the registry, one for the public Python names, one for the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import holdfast
from holdfast.cli.app import run
from holdfast.foundation import registry

TITLES = {
    "threat": "Threat sets",
    "attack": "Attacks",
    "objective": "Objectives",
    "net": "Nets",
    "model": "Origins of models",
    "data": "Kinds of data",
    "library": "Libraries of data",
    "corruption": "Corruptions",
    "perturbation": "Perturbation sequences",
    "defence": "Defences",
    "detector": "Detectors",
    "experiment": "Experiments",
    "probe": "Questions",
}


def pages() -> Iterator[tuple[str, str]]:
    """The file names and their Markdown."""
    yield "commands.md", commands()
    yield "python.md", public()
    for kind in registry.KINDS:
        yield f"{kind}.md", registered(kind)


def registered(kind: str) -> str:
    """Every name of a kind: its options with their defaults, and what its docstring says."""
    title = TITLES.get(kind, kind)
    parts = [f"# {title}", f"Made from the registry. `holdfast list {kind}` names the same."]
    for name in registry.names(kind):
        parts += [f"## {name}", described(registry.load(kind, name))]
    return "\n\n".join(parts) + "\n"


def public() -> str:
    """The names that `import holdfast` offers."""
    parts = ["# Python names", "What `import holdfast` offers."]
    for name in sorted(holdfast.__all__, key=str.lower):
        value = getattr(holdfast, name)
        if callable(value) and inspect.ismodule(value):  # a package that answers to the name of its function
            value = getattr(importlib.import_module(f"holdfast.{name}.api"), name)
        if not callable(value):
            continue
        parts += [f"## holdfast.{name}", described(value)]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """The help of every command."""
    parts = ["# Commands"]
    for name in re.findall(r"^│ ([a-z]+) ", _help(), re.MULTILINE):
        parts += [f"## holdfast {name}", f"```text\n{_help(name)}```"]
    return "\n\n".join(parts) + "\n"


def described(thing: Any) -> str:
    """Its signature, and its docstring as Markdown."""
    return f"```python\n{_signature(thing)}\n```\n\n{markdown(inspect.getdoc(thing) or '')}"


def markdown(docstring: str) -> str:
    """A docstring as Markdown: names in code, the entries of a section as a list."""
    blocks = []
    for block in re.split(r"\n\s*\n", docstring.replace("``", "`")):
        heading, _, rest = block.partition("\n")
        if heading in ("Args:", "Raises:", "Returns:"):
            entries = re.sub(r"\n {8,}", " ", inspect.cleandoc(rest) if heading == "Returns:" else rest)
            lines = [re.sub(r"^([\w, *]+):", r"`\1`:", line.strip()) for line in entries.splitlines()]
            blocks.append(f"**{heading[:-1]}**\n\n" + "\n".join(f"- {line}" for line in lines))
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def _signature(called: Callable[..., Any]) -> str:
    name = called.__name__
    if dataclasses.is_dataclass(called):
        fields = [each for each in dataclasses.fields(called) if each.init and not each.name.startswith("_")]
        given = [each.name + _default(each) for each in fields]
    else:
        found = inspect.signature(called).parameters.values()
        given = [str(each.replace(annotation=inspect.Parameter.empty)) for each in found]
        given = [each for each in given if each != "self"]
    short = f"{name}({', '.join(given)})"
    return short if len(short) <= 100 else f"{name}(\n    " + ",\n    ".join(given) + ",\n)"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"={field.default!r}"
    return "" if field.default_factory is dataclasses.MISSING else f"={field.default_factory()!r}"


def _help(*command: str) -> str:
    shown = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(shown):
            run([*command, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return shown.getvalue()
