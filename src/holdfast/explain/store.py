"""An explanation on the disk: ``explain.json``, and a folder for each question with its answer, arrays, tables, figures."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from holdfast import __version__
from holdfast.data.npz import members
from holdfast.data.reading import reading
from holdfast.experiments.write import comma_separated
from holdfast.explain.case import Case
from holdfast.explain.found import Figure, Found
from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.records.document import read_document
from holdfast.records.files import output_folder, storing, write_atomic
from holdfast.records.schema import Frozen, ModelInfo
from holdfast.records.turns import unshared
from holdfast.report.charts import save_png, svg

INFO, ANSWER, ARRAYS, CASES, PICTURES = "explain.json", "answer.json", "arrays.npz", "cases.jsonl", "cases.npz"


class NetInfo(Frozen):
    """A net and what it is there for."""

    name: str
    role: str
    model: ModelInfo


class Images(Frozen):
    """Which images: their name, how many there are, and the fingerprint of all of them."""

    name: str
    n: int
    fingerprint: str


class ExplainInfo(Frozen):
    """What was asked about; the questions and answers stand in the folders beside it."""

    schema_version: int = 1
    created: str
    command: str
    nets: tuple[NetInfo, ...]
    images: Images
    known: Images | None
    classes: tuple[str, ...]
    threat: str
    eps: float
    seed: int
    confidence: float
    versions: dict[str, str]


class Answer(Frozen):
    """What a question was answered with; the arrays stand in ``arrays.npz``."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    schema_version: int = 1
    probe: str
    question: str
    settings: dict[str, Any]
    ids: tuple[int, ...]
    forwards: int
    gradients: int
    seconds: float
    found: dict[str, Any]


_FOUND = TypeAdapter(Found)
_IDENTITY = ("nets", "images", "known", "threat", "eps", "seed", "confidence")


def described(case: Case, command: str) -> ExplainInfo:
    """What ``explain.json`` says of a case."""

    def images(source: Any) -> Images:
        return Images(name=source.name, n=len(source), fingerprint=source.fingerprint())

    return ExplainInfo(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        nets=tuple(NetInfo(name=net.name, role=net.role, model=net.model.info()) for net in case.nets),
        images=images(case.source),
        known=images(case.known) if case.known is not None else None,
        classes=tuple(case.labels),
        threat=case.threat.name,
        eps=case.threat.eps,
        seed=case.seed,
        confidence=case.confidence,
        versions={
            "holdfast": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
    )


def opened(out: Path, info: ExplainInfo, rank: int = 0) -> None:
    """Makes the folder of an explanation, or makes sure that it is about the same nets and images.

    Args:
        rank: of the process; those beside the first find the folder made.

    Raises:
        PlanMismatch: it is about something else.
        StorageError: it cannot be written, or is not that of the first process.
    """
    with storing(out):
        output_folder(out)
    path = out / INFO
    if not path.exists():
        if rank:
            raise unshared(out)
        write_atomic(path, [info.model_dump_json(indent=2).encode()])
        return
    old = read_document(path, ExplainInfo)
    for field in _IDENTITY:
        if _compared(old, field) != _compared(info, field):
            raise PlanMismatch(
                f"{out} holds an explanation with another {field}: {json.dumps(_compared(old, field))[:160]}"
                + (f" (seen by process {rank}; every process builds the nets anew)" if rank else ""),
                hint="give a new folder with --out, or ask about the same to go on",
            )


def read_info(out: Path) -> ExplainInfo:
    """What an explanation is about. Raises BadFile."""
    return read_document(out / INFO, ExplainInfo)


def save(out: Path, answer: Answer, found: Found, figures: Sequence[Figure]) -> None:
    """Writes an answer; ``answer.json`` comes last and says that all is there. Raises StorageError."""
    folder = out / answer.probe
    with storing(folder):
        output_folder(folder)
    file = io.BytesIO()
    np.savez_compressed(file, **found.arrays)  # pyrefly: ignore[bad-argument-type]
    write_atomic(folder / ARRAYS, [file.getvalue()])
    for place, table in enumerate(found.tables):
        name = "table.csv" if len(found.tables) == 1 else f"table_{place + 1}.csv"
        write_atomic(folder / name, [comma_separated(table).encode()])
    for figure in figures:
        write_atomic(folder / f"{figure.name}.svg", [svg(figure.chart).encode()])
        with storing(folder):
            save_png(figure.chart, folder / f"{figure.name}.png")
    write_atomic(folder / ANSWER, [answer.model_dump_json(indent=2).encode()])


def packed(found: Found) -> dict[str, Any]:
    """All but the arrays, as plain data."""
    return _FOUND.dump_python(found, mode="json", exclude={"arrays"})


def save_cases(out: Path, files: Sequence[dict[str, Any]], pictures: dict[str, np.ndarray]) -> None:
    """Writes the case files, a line each, and the portraits of the first of them. Raises StorageError."""
    file = io.BytesIO()
    np.savez_compressed(file, **pictures)  # pyrefly: ignore[bad-argument-type]
    write_atomic(out / PICTURES, [file.getvalue()])
    write_atomic(out / CASES, [(json.dumps(each, allow_nan=False) + "\n").encode() for each in files])


def cases(out: Path) -> list[dict[str, Any]]:
    """The case files of an explanation. Raises BadFile."""
    with reading(out / CASES, what="case files"):
        return [dict(json.loads(line)) for line in (out / CASES).read_text(encoding="utf-8").splitlines()]


def portrayed(out: Path) -> dict[str, np.ndarray]:
    """The portraits of the first case files (`holdfast.explain.portraits`); empty where there are none. Raises BadFile."""
    return _arrays(out / PICTURES) if (out / PICTURES).exists() else {}


def answered(out: Path) -> dict[str, tuple[Answer, Found]]:
    """The answers in a folder, by the names of their questions. Raises BadFile where one is damaged."""
    return {path.parent.name: _read(path) for path in sorted(out.glob(f"*/{ANSWER}"))}


def _read(path: Path) -> tuple[Answer, Found]:
    answer = read_document(path, Answer)
    try:
        return answer, _FOUND.validate_python({**answer.found, "arrays": _arrays(path.with_name(ARRAYS))})
    except ValidationError as error:
        raise BadFile(f"{path} cannot be read: {error}", hint="delete that folder and ask again") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    held = [name.removesuffix(".npy") for name in members(path) if name.endswith(".npy")]
    with reading(path, what="arrays of an explanation"), np.load(path, allow_pickle=False) as file:
        return {name: file[f"{name}.npy"] for name in held}


def _compared(info: ExplainInfo, field: str) -> Any:
    value = info.model_dump(mode="json")[field]
    if field == "nets":
        return [[each["name"], each["role"], each["model"]["fingerprint"]] for each in value]
    return value["fingerprint"] if isinstance(value, dict) else value
