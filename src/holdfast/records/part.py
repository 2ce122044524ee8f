"""A part of a run in a folder of its own: ``run.json``, ``outcomes.jsonl``, which grows as it goes, ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.records.column import Keys
from holdfast.records.files import storing, write_atomic
from holdfast.records.lines import Line, append, locked, repaired
from holdfast.records.schema import SCHEMA_VERSION

RUN, OUTCOMES, SUMMARY, SAMPLES = "run.json", "outcomes.jsonl", "summary.json", "samples.safetensors"

_NOT_IDENTITY = {"model": {"device", "name"}, "data": {"name"}}

Document = TypeVar("Document", bound=BaseModel)


class PartStore(Generic[Line]):
    """The folder of a part, open for appending by one process; ``done``: the keys of the lines that are there.

    The last entry of a key is a number, of an image or a chunk of them.
    """

    def __init__(
        self,
        folder: Path,
        info: BaseModel,
        *,
        identity: tuple[str, ...],
        kind: type[Line],
        key: Callable[[Line], tuple[Any, ...]],
    ) -> None:
        """Opens ``folder``, or resumes it if it holds the same part.

        Args:
            info: what was asked for; ``identity``: its fields that make another run.
            kind: of a line; ``key``: what a line is about.

        Raises:
            PlanMismatch: it holds another run.
            StorageError: it cannot be written, or another process is writing to it.
            BadFile: it was damaged by more than a kill.
        """
        self.folder, self._key = folder, key
        self.done = Keys()
        with storing(folder), ExitStack() as opened:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = opened.enter_context(locked(folder / OUTCOMES))
            if (folder / RUN).exists():
                same_part(folder, info, identity)
            else:
                write_atomic(folder / RUN, [info.model_dump_json(indent=2).encode()])
            self.done.update(key(line) for line in repaired(folder / OUTCOMES, kind))
            opened.pop_all()

    def append(self, line: Line) -> None:
        """Writes one line."""
        with storing(self.folder):
            append(self._lines, line)
        self.done.add(self._key(line))

    def close(self) -> None:
        """Releases the folder. What is appended is already in the files."""
        self._lines.close()


def same_part(folder: Path, info: BaseModel, identity: tuple[str, ...]) -> None:
    """Refuses a folder that holds another run than that of ``info``. Raises PlanMismatch."""
    found = read_document(folder / RUN, type(info))
    for field in identity:
        old, new = (_identity(each, field) for each in (found, info))
        if old != new:
            raise PlanMismatch(
                f"{folder} holds another run: its {field} is {json.dumps(old)[:160]}, now it is {json.dumps(new)[:160]}",
                hint="give a new folder with --out, or run with the settings of that run to resume it",
            )


def read_document(path: Path, kind: type[Document]) -> Document:
    """One of the JSON documents. Raises BadFile where it is missing, damaged, or of a newer version."""
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise BadFile(f"{path} was written by a newer holdfast (schema {version})", hint="upgrade holdfast")
        return kind.model_validate_json(text)
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint="run the same audit to its end") from None
    except (ValidationError, ValueError, AttributeError, TypeError, OSError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint="start again in a new folder") from None


def _identity(info: BaseModel, field: str) -> object:
    value = info.model_dump(mode="json")[field]
    return {k: v for k, v in value.items() if k not in _NOT_IDENTITY[field]} if field in _NOT_IDENTITY else value
