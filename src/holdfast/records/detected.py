"""What an evaluation of detectors writes: ``detected/`` in the run folder, and ``detect.json`` beside it.

``detected/run.json`` (`DetectedInfo`) says what was asked, ``outcomes.jsonl`` (`Scored`, one line per detector and chunk of
images) is appended to as it goes, ``points/FIRST.safetensors`` hold the points of the oblivious attack, the same for every
detector. ``detect.json`` (`DetectedSummary`) repeats what was asked and has the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from holdfast.records.defended import Difference, PoolInfo
from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES, Layout, PartStore, same_part
from holdfast.records.schema import SCHEMA_VERSION, DataInfo, Finding, Frozen, ModelInfo, Rate

FOLDER, POINTS, SUMMARY = "detected", "points", "detect.json"
NOISE, OBLIVIOUS, ADAPTIVE = "noise", "oblivious", "adaptive"
"""What a detector is shown, beside the clean images."""


class DetectorInfo(Frozen):
    """A detector: its name in the registry, its settings by name, and why no gradient passes (empty where one does)."""

    detector: str
    settings: dict[str, Any]
    flat: str = ""


class DetectedInfo(Frozen):
    """What was asked for.

    ``detectors``: by the label that the tables give them. ``fitted``: the training images that they learn from. ``held``:
    the clean images that thresholds are set on, for the rate ``false_alarms``; ``data``: those under test. ``steps`` and
    ``restarts``: of every search. ``evaluations``: fresh ones of each image by a detector that draws. ``extra``: whether
    the net's last output is taken for a class of adversarial images. ``chunk``: images per line of outcomes.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    detectors: dict[str, DetectorInfo]
    fitted: PoolInfo
    held: DataInfo
    false_alarms: float
    threat: str
    eps: float
    steps: int
    restarts: int
    evaluations: int
    extra: bool
    seed: int
    chunk: int
    model: ModelInfo
    data: DataInfo
    findings: tuple[Finding, ...] = ()
    versions: dict[str, str]
    command: str = ""
    request: dict[str, Any] = Field(default_factory=dict)


class Judgement(Frozen):
    """What m evaluations say of n images: the class (n, m), and the score (n, m), larger = more suspicious."""

    predicted: tuple[tuple[int, ...], ...]
    score: tuple[tuple[float, ...], ...]


class Scored(Frozen):
    """A detector on some images; every tuple has an entry for each.

    ``first``: the place of the first in the data's order. ``threshold``: scores of at least so much are rejected.
    ``calibrated``: the share of the held-out images that it rejects, with the interval of its rate on others. ``seen``:
    `CLEAN`, `NOISE`, `OBLIVIOUS`, `ADAPTIVE` -> the judgements there. ``forwards`` and ``gradients``: of the model, for all
    of this together.
    """

    detector: str
    first: int
    ids: tuple[int, ...]
    label: tuple[int, ...]
    threshold: float
    calibrated: Rate
    seen: dict[str, Judgement]
    forwards: int
    gradients: int
    seconds: float


class UnderAttack(Frozen):
    """A detector against one attack.

    ``fooled``: images that the classifier gets wrong there; ``auc`` (of them against the clean images) and ``detected`` (how
    many of them are flagged) are None without any. ``safe``: the share of all images that are flagged or right: the others
    are lost, wrong and unnoticed. ``robust``: that, and the clean image is accepted and right; it alone compares with the
    accuracy of a classifier that rejects nothing.
    """

    fooled: int
    auc: Rate | None
    detected: Rate | None
    safe: Rate
    robust: Rate


class DetectorRow(Frozen):
    """The numbers of one detector, with 95 % intervals clustered over images.

    ``calibrated``: see `Scored`; ``false_alarms``: the share of the clean images under test that are flagged; ``noise``: of
    the same images with random noise of the attack's radius, ``noise_adds`` by how much more; ``clean``: accepted and right.
    ``gain``: ``adaptive.robust`` less the undefended model's, paired; ``overstated``: ``oblivious.robust`` less
    ``adaptive.robust``. ``cost``: forwards of the model for one answer.
    """

    detector: str
    evaluations: int
    threshold: float
    calibrated: Rate
    false_alarms: Rate
    noise: Rate
    noise_adds: Difference
    clean: Rate
    oblivious: UnderAttack
    adaptive: UnderAttack
    gain: Difference
    overstated: Difference
    verdict: Literal["a gain over the undefended model", "no gain over the undefended model"]
    sentence: str
    cost: float
    forwards: int
    gradients: int


class DetectedSummary(Frozen):
    """``detect.json``. ``undefended`` is right at the clean image and at every point that any search found; ``forwards``
    and ``gradients`` count all evaluations of the model on images under test, those of the oblivious attack included."""

    schema_version: int = SCHEMA_VERSION
    info: DetectedInfo
    n: int
    undefended_clean: Rate
    undefended_oblivious: Rate
    undefended: Rate
    rows: tuple[DetectorRow, ...]
    forwards: int
    gradients: int
    seconds: float
    warnings: tuple[Finding, ...] = ()


_LAYOUT = Layout(
    Scored,
    key=lambda line: (line.detector, line.first),
    identity=(
        *("detectors", "fitted", "held", "false_alarms", "threat", "eps", "steps", "restarts", "evaluations"),
        *("seed", "chunk", "model", "data"),
    ),
)


def detected_store(folder: Path, info: DetectedInfo) -> PartStore[Scored]:
    """The evaluation in ``folder``, to append to; ``done``: (detector, first). Raises as `PartStore`."""
    store = PartStore(folder / FOLDER, info, _LAYOUT)
    (folder / FOLDER / POINTS).mkdir(exist_ok=True)
    return store


def scored(folder: Path) -> Iterator[Scored]:
    """The lines of the evaluation in a run folder. Raises BadFile."""
    return whole(folder / FOLDER / OUTCOMES, Scored)


def same_detected(folder: Path, info: DetectedInfo) -> None:
    """Refuses a folder that holds another evaluation than that of ``info``. Raises PlanMismatch."""
    same_part(folder / FOLDER, info, _LAYOUT)


def read_detected(folder: Path) -> DetectedSummary:
    """The numbers of a finished evaluation. Raises BadFile."""
    return read_document(folder / SUMMARY, DetectedSummary)
