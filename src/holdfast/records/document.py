"""The JSON documents of a run: read with care, and held against what is asked for now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.records.schema import SCHEMA_VERSION

_NOT_IDENTITY = {"model": {"device", "name"}, "data": {"name"}}

Document = TypeVar("Document", bound=BaseModel)


class Differing(NamedTuple):
    """A setting in which two runs differ: its name, and what it is in each, in words."""

    field: str
    there: str
    here: str


def read_document(path: Path, kind: type[Document], *, hint: str | None = None) -> Document:
    """One of the documents.

    Args:
        hint: what to do where it is missing or damaged; to run to the end or to start again unless given.

    Raises:
        BadFile: it is missing, damaged, or of a newer version.
    """
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BadFile(f"{path} was written by a newer holdfast (schema {version})", hint="upgrade holdfast")
        return kind.model_validate_json(text)
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint=hint or "run the same audit to its end") from None
    except (ValueError, AttributeError, RecursionError, OSError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint=hint or "start again in a new folder") from None


def differing(there: BaseModel, here: BaseModel, fields: tuple[str, ...]) -> Iterator[Differing]:
    """Those of ``fields`` that make two documents speak of two runs. Names and the device do not."""
    for field in fields:
        old, new = (_identity(each, field) for each in (there, here))
        if old != new:
            yield Differing(field, _short(old), _short(new))


def check_same(folder: Path, there: BaseModel, here: BaseModel, fields: tuple[str, ...]) -> None:
    """Refuses a folder that holds another run than what is asked for now. Raises PlanMismatch."""
    for field, old, new in differing(there, here, fields):
        raise PlanMismatch(
            f"{folder} holds another run: its {field} is {old}, now it is {new}",
            hint="give a new folder with --out, or run with the settings of that run to resume it",
        )


def _identity(document: BaseModel, field: str) -> object:
    value = document.model_dump(mode="json")[field]
    return {k: v for k, v in value.items() if k not in _NOT_IDENTITY[field]} if field in _NOT_IDENTITY else value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 160 else text[:157] + "..."
