"""The folder of a training: the names of its files, what was asked, and a line for each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.foundation.errors import PlanMismatch
from holdfast.records.document import read_document
from holdfast.records.files import write_atomic
from holdfast.records.lines import repaired
from holdfast.records.schema import Finding, Frozen

RUN, LOG, PROBES, ROBUST, CLEAN, FINAL = (
    "training.json",
    "log.jsonl",
    "probes.jsonl",
    "best_robust.safetensors",
    "best_clean.safetensors",
    "final.safetensors",
)


class TrainingInfo(Frozen):
    """What was asked for. ``recipe``: its fields as text; ``identity``: a digest of net, recipe, data and version."""

    schema_version: int = 1
    created: str
    net: str
    options: dict[str, Any]
    recipe: dict[str, str]
    data: str
    extra: str = ""
    n: int
    held_out: int
    identity: str
    command: str = ""


class EpochRecord(Frozen):
    """One epoch: the mean loss over its steps, and the accuracy of what is judged on the images that were held out.

    ``robust``: after PGD of 10 steps, ``single``: after FGSM; both equal ``clean`` where the radius is 0. ``seconds``: since
    the training began; ``watched``: those of them that the watchdog took since it was last started.
    """

    epoch: int
    loss: float
    clean: float
    robust: float
    single: float
    seconds: float
    watched: float = 0.0
    findings: tuple[Finding, ...] = ()


def claim(out: Path, info: TrainingInfo) -> None:
    """Writes ``training.json``, or refuses a folder whose own is of another training. Raises PlanMismatch."""
    if not (out / RUN).exists():
        write_atomic(out / RUN, [info.model_dump_json(indent=2).encode()])
        return
    known = read_document(out / RUN, TrainingInfo)
    if known.identity != info.identity:
        other = [key for key in info.recipe if known.recipe.get(key) != info.recipe[key]]
        what = (
            f"its {other[0]} is {known.recipe.get(other[0])}, now it is {info.recipe[other[0]]}"
            if other
            else (f"{known.net} on {known.data}, now {info.net} on {info.data}, or of another version")
        )
        raise PlanMismatch(f"{out} holds another training: {what}", hint="give a new folder with --out")


def lines(path: Path, kind: type[Any], count: int) -> list[Any]:
    """The first ``count`` lines; those after the checkpoint are dropped, because they will be written again."""
    found = list(repaired(path, kind))[:count]
    text = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.truncate(sum(map(len, text[:count])))
    return found


def worth(record: EpochRecord) -> tuple[float, float]:
    """What weights are chosen by: the largest robust accuracy, among equals the largest clean one."""
    return record.robust, record.clean
