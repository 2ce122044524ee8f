"""The versioned schema of everything a run writes.

A run folder holds ``run.json`` (`RunInfo`), ``records.jsonl`` (one `Record` per line), ``points.safetensors`` (the
adversarial images), ``gallery.safetensors`` (a few clean images beside theirs), ``summary.json`` (`Summary`) and
``report.html``. Every model here is frozen and refuses unknown keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

SCHEMA_VERSION = 1

CLEAN = "clean"
"""The stage of a run that evaluates the unperturbed images, at radius 0."""

Share = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]
"""In [0, 1], but for the rounding of a mean."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Class = Annotated[int, Field(ge=-1, lt=2**31)]
Radius = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """The settings that all models of the schema share.

    JSON has no number for infinity and NaN: they are written as the strings ``"Infinity"``, ``"-Infinity"`` and ``"NaN"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Rate(Frozen):
    """A share of ``n`` samples with its 95 % Wilson interval; all three shares lie in [0, 1]."""

    value: Share
    n: Count
    low: Share
    high: Share


class Finding(Frozen):
    """One thing that a check saw: what it is, what it means, and what to do.

    ``level``: ``error`` (the number would be wrong; nothing is run), ``warning`` (a reason to doubt the number), or
    ``note`` (worth knowing).
    """

    check: str
    level: Literal["error", "warning", "note"]
    saw: str
    means: str
    remedy: str


class StageInfo(Frozen):
    """One stage of a plan: its name, the attack's registry name and that attack's whole configuration.

    ``backward``: what its gradients were taken through, empty for the model's own backward pass. ``entry``: the rule by
    which samples entered.
    """

    name: str
    attack: str
    configuration: dict[str, Any]
    backward: dict[str, Any] = Field(default_factory=dict)
    entry: dict[str, Any] = Field(default_factory=dict)


class ModelInfo(Frozen):
    """The classifier under test. ``shape`` is (channels, height, width); ``declared`` is what its weights file says."""

    name: str
    fingerprint: str
    classes: int
    shape: tuple[int, int, int]
    parameters: int
    dtype: str
    device: str
    declared: dict[str, str] = Field(default_factory=dict)


class DataInfo(Frozen):
    """The images under test. ``n`` of them; ``class_names`` has one entry per class, in the order of the labels."""

    name: str
    fingerprint: str
    n: Count
    shape: tuple[Count, Count, Count]
    class_names: tuple[str, ...]


class RunInfo(Frozen):
    """What was asked for, of which model, on which images, with which code. Written once, before any work."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    plan: str
    stages: tuple[StageInfo, ...]
    threat: str
    eps: Radius
    curve: tuple[Radius, ...]
    """All radii that are audited, ascending; ``eps`` is one of them."""
    seed: int
    draws: int = 1
    """Over how many evaluations of an image a randomised model was averaged."""
    model: ModelInfo
    data: DataInfo
    findings: tuple[Finding, ...] = ()
    checks: int = 0
    """Evaluations of one image that these findings took."""
    versions: dict[str, str]
    command: str = ""
    request: dict[str, Any] = Field(default_factory=dict)
    """The configuration of a run that was asked for by text: enough to load its model and its data again."""


class Record(Frozen):
    """One finished search, or the verdict of a stage on a sample; one line of ``records.jsonl``.

    ``stage`` is `CLEAN` for the unperturbed image. ``final`` says that this is the verdict; else the line is one finished
    search (target or restart) of a sample whose stage is still going on, which a resumed run does not repeat. ``search`` is
    the index of the search, of a verdict that of the deciding one.
    ``margin`` is the smallest ``z_y - max_{k != y} z_k`` seen, in logits; ``value`` is the attack's loss at the kept point,
    ``distance`` how far it lies from the clean image in the threat's norm, ``point`` its place among the stored points
    (None: not fooled, nothing stored). ``forwards`` and ``backwards`` count the evaluations of one image that decided it.
    """

    id: Count
    stage: str
    eps: Radius
    search: int = 0
    final: bool = True
    label: Class
    fooled: bool
    predicted: Class
    margin: float
    value: float
    distance: float
    steps: int
    point: Count | None = None
    forwards: int
    backwards: int
    ranking: tuple[int, ...] | None = None
    """Stage `CLEAN` only: the wrong classes in the order of their logits, largest first, at most 16."""


class Session(Frozen):
    """A line of ``sessions.jsonl``: when a session ``started`` (Unix time), and once it ended how many seconds it took."""

    started: FiniteFloat
    seconds: FiniteFloat = 0.0
    discarded: int = 0


class StageSummary(Frozen):
    """What one stage did at one radius. ``entered``: samples still unbroken when it began; ``broken``: those it broke."""

    stage: str
    eps: Radius
    entered: int
    broken: int
    forwards: int
    backwards: int


class CurvePoint(Frozen):
    """Robust accuracy at one radius."""

    eps: Radius
    robust_accuracy: Rate


class Audited(Frozen):
    """What the plan ``standard`` found on ``count`` random samples of those that the plan of the run had left.

    ``broken`` of them fell. ``low``: robust accuracy by ``standard`` is at least that, with 95 % confidence over the draw
    (Clopper and Pearson 1934, one-sided), unless it is larger than the robust accuracy of the run.
    """

    count: int
    broken: int
    low: Share


class Distances(Frozen):
    """How far the nearest points lie that broke samples, in the threat's norm, of a run with minimal attacks.

    ``found``: correctly classified samples with such a point within the largest radius, of ``n``. ``quantiles``: (share of
    the n, distance) pairs, a share that was not reached left out.
    """

    n: int
    found: int
    quantiles: tuple[tuple[Share, Radius], ...]


class Measured(Frozen):
    """What a run was measured on: the name of its ``device``, the model's ``dtype``, in which every verdict was reached, and
    its searches' ``precision`` (``full`` is that dtype), ``compile`` mode and how many ran at once (``slots``)."""

    device: str
    dtype: str
    precision: str
    compile: str
    slots: int


class Failure(Frozen):
    """A sample that a run could not finish, because its image cannot be read, or the model raises or answers with NaN.

    ``stage`` is where it ``happened``, which is told in one line. From the radius ``eps`` on the sample does not count as
    robust; 0: not as classified correctly either. ``label`` is left out where it is in the records, or unknown.
    """

    id: Count
    stage: str
    eps: Radius
    happened: str
    label: Class | None = None


class Summary(Frozen):
    """The headline numbers of a finished run: ``summary.json``.

    ``forwards`` and ``backwards`` are the evaluations of one image that decided the verdicts; ``discarded`` are those spent
    on searches that ran ahead and turned out not to be needed (in the sessions that ended in good order), ``checks`` those
    that asked whether the number can be believed, before and after the run. ``seconds`` is wall time, summed over the
    sessions of a resumed run. A run with samples that ``failed`` is not complete: the same command tries these again.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    model: str
    data: str
    plan: str
    threat: str
    eps: Radius
    seed: int
    clean_accuracy: Rate
    robust_accuracy: Rate
    curve: tuple[CurvePoint, ...]
    stages: tuple[StageSummary, ...]
    forwards: int
    backwards: int
    discarded: int
    checks: int = 0
    seconds: FiniteFloat
    warnings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()
    audited: Audited | None = None
    distances: Distances | None = None
    measured: Measured | None = None
    failed: tuple[Failure, ...] = ()
