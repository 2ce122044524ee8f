"""What an audit of a defence writes: ``defended/`` in the run folder.

``run.json`` (`DefendedInfo`) says what was asked, ``outcomes.jsonl`` (`Attacked`, one line per stage and chunk of images) is
appended to as it goes, ``points/STAGE-FIRST.safetensors`` hold the images that a stage found, and ``summary.json``
(`DefendedSummary`) has the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES, RUN, Layout, Part, finished, part
from holdfast.records.part import SUMMARY as SUMMARY
from holdfast.records.schema import SCHEMA_VERSION, DataInfo, Finding, Frozen, ModelInfo, Rate

FOLDER = "defended"
POINTS = "points"


class PoolInfo(Frozen):
    """Clean images that a defence keeps: where they come from, how many, and 16 digits over them."""

    source: str
    images: int
    classes: int
    fingerprint: str


class OpeningInfo(Frozen):
    """One way into the defended model; ``flat`` says why no gradient passes, and is empty where one does."""

    name: str
    flat: str = ""


class DefendedInfo(Frozen):
    """What was asked for.

    ``settings``: the defence's own, by name, those of a part as "part.setting". ``steps``, ``restarts``, ``budgets``: of the
    adaptive attack (see `holdfast.audit_defence`). ``evaluations``: fresh ones of each image that score it; ``tries``: of
    "worst of". ``randomised``: whether two evaluations of an image were seen to differ. ``note``: what was calibrated.
    ``chunk``: images per line of outcomes.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    defence: str
    settings: dict[str, Any]
    pools: tuple[PoolInfo, ...] = ()
    openings: tuple[OpeningInfo, ...]
    randomised: bool
    note: str = ""
    threat: str
    eps: float
    steps: int
    restarts: int
    budgets: tuple[int, ...]
    evaluations: int
    tries: int
    seed: int
    chunk: int
    model: ModelInfo
    data: DataInfo
    findings: tuple[Finding, ...] = ()
    versions: dict[str, str]
    command: str = ""
    request: dict[str, Any] = Field(default_factory=dict)


class Attacked(Frozen):
    """Some images at the points of a stage; every tuple has an entry for each image.

    ``first``: the place of the first in the data's order. ``undefended``: what the model says of the point, ``defended``:
    what each fresh evaluation says, ``fixed``: what the deterministic mode says, where it was asked. ``found``: which search
    found the point. ``right``, ``model_right``, stage `OBLIVIOUS` alone: attack -> at its own point, the share of held-out
    evaluations that are right, and whether the model is. ``gradients`` and ``forwards``: of the model, for one image, that
    the stage took for all of them together.
    """

    stage: str
    first: int
    ids: tuple[int, ...]
    label: tuple[int, ...]
    undefended: tuple[int, ...]
    defended: tuple[tuple[int, ...], ...]
    fixed: tuple[int, ...] = ()
    found: tuple[str, ...] = ()
    right: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    model_right: dict[str, tuple[bool, ...]] = Field(default_factory=dict)
    gradients: int = 0
    forwards: int = 0


OBLIVIOUS, FIXED, LARGE, BLACK_BOX = "oblivious", "fixed", "large", "black-box"
"""Names of stages, beside ``clean`` and those of the budgets."""


def adaptive(budget: int) -> str:
    """The name of the stage of that budget."""
    return f"adaptive-{budget}"


class Accuracies(Frozen):
    """What "the accuracy" can mean: of one fresh evaluation, of ``tries`` in a row, of the majority, of a fixed seed.

    At adaptive points ``fixed`` is attacked with the seed known. ``unstable``: how often two evaluations of an image differ.
    All with 95 % intervals, clustered over images.
    """

    mean: Rate
    worst: Rate
    majority: Rate
    fixed: Rate
    unstable: Rate


class Difference(Frozen):
    """A paired difference of accuracies on the same images, in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


class ByAttack(Frozen):
    """One attack that does not know of the defence: the accuracy of the model and of the defended model at its points."""

    attack: str
    undefended: Rate
    defended: Rate


class Level(Frozen):
    """The adaptive attack up to a budget: of how many gradients of the model for an image, and what it left.

    ``fall``: by how much the accuracy fell from the level before, ``error``: the standard error of that fall.
    """

    budget: int
    gradients: int
    accuracy: Rate
    fall: float | None = None
    error: float | None = None


class Sanity(Frozen):
    """A check of the evaluation itself: whether it ``holds`` (None: it does not apply), and what was seen."""

    check: str
    holds: bool | None
    saw: str


class DefendedSummary(Frozen):
    """The numbers of a finished audit of a defence.

    ``undefended`` is right at the clean image and at every point that any search found. ``gain``: adaptive minus undefended,
    ``clean_gain``: the same on clean images, ``overstated``: oblivious minus adaptive. ``cost``, ``cost_attacked``: forwards
    of the model for an answer, on clean and on adversarial images. ``found``: search -> images whose final point it found.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    defence: str
    n: int
    threat: str
    eps: float
    seed: int
    evaluations: int
    tries: int
    randomised: bool
    undefended_clean: Rate
    undefended: Rate
    clean: Accuracies
    oblivious: Accuracies
    adaptive: Accuracies
    gain: Difference
    clean_gain: Difference
    overstated: Difference
    verdict: Literal["a gain over the undefended model", "no gain over the undefended model"]
    by_attack: tuple[ByAttack, ...]
    curve: tuple[Level, ...]
    flat: bool
    found: dict[str, int]
    sanity: tuple[Sanity, ...]
    cost: float
    cost_attacked: float
    gradients: int
    forwards: int
    seconds: float
    warnings: tuple[Finding, ...] = ()


_LAYOUT = Layout(
    Attacked,
    key=lambda line: (line.stage, line.first),
    identity=(
        *("defence", "settings", "threat", "eps", "steps", "restarts", "budgets", "evaluations", "tries"),
        *("seed", "chunk", "model", "data"),
    ),
)


def defended_store(folder: Path, info: DefendedInfo, rank: int = 0) -> Part[Attacked]:
    """The audit of a defence in ``folder``, to append to; ``done``: (stage, first). Raises as `part`."""
    store = part(folder / FOLDER, info, _LAYOUT, rank)
    (folder / FOLDER / POINTS).mkdir(exist_ok=True)
    return store


def attacked(folder: Path) -> Iterator[Attacked]:
    """The lines of the audit in a run folder. Raises BadFile."""
    return whole(folder / FOLDER / OUTCOMES, Attacked)


def finished_defended(folder: Path, info: DefendedInfo) -> DefendedSummary | None:
    """The numbers of an audit, None if it is not finished. Raises PlanMismatch where the folder holds another one."""
    return finished(folder / FOLDER, info, _LAYOUT, DefendedSummary)


def read_defended(folder: Path) -> DefendedInfo:
    """What was asked of the defence in a run folder. Raises BadFile."""
    return read_document(folder / FOLDER / RUN, DefendedInfo)


def read_defended_summary(folder: Path) -> DefendedSummary:
    """The numbers of a finished audit of a defence. Raises BadFile."""
    return read_document(folder / FOLDER / SUMMARY, DefendedSummary)
