"""What the certificates of a smoothed classifier and the attack on it write.

``certificates/`` and ``attacks/`` each hold ``run.json`` (`CertifyInfo`: what was asked) and ``outcomes.jsonl``
(`Certified`, `Attacked`: a line per image), which is appended to as it goes; ``certify.json`` (`CertifySummary`) has the
numbers. The attack has a folder of its own, so that it can be asked for after the certificates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES, Layout, Part, part
from holdfast.records.schema import SCHEMA_VERSION, DataInfo, Finding, Frozen, ModelInfo, Rate

CERTIFICATES, ATTACKS, DOCUMENT = "certificates", "attacks", "certify.json"


class AttackInfo(Frozen):
    """The attack on the smoothed classifier; see `holdfast.audit.certified.question.Pursuit`."""

    steps: int
    restarts: int
    draws: int
    predict: int


class CertifyInfo(Frozen):
    """What was asked for.

    ``radii``: L2, of the table and of the attack, ascending from 0. ``decided``: those that certificates decide between,
    each with as few draws as it takes; empty where a fixed number of draws gives each image its largest radius.
    ``largest``: that any image can get from so many draws.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    sigma: float
    select: int
    estimate: int
    alpha: float
    decided: tuple[float, ...]
    largest: float
    radii: tuple[float, ...]
    attack: AttackInfo | None
    seed: int
    model: ModelInfo
    data: DataInfo
    findings: tuple[Finding, ...] = ()
    versions: dict[str, str]
    command: str = ""


class Certified(Frozen):
    """The certificate of an image: the class ``certified`` (-1: none) within the L2 ``radius``.

    ``votes``: draws of the estimation that gave the selected class; ``draws``: forwards in all; ``undefended``: what the
    model says of the image without noise.
    """

    id: int
    label: int
    certified: int
    radius: float
    votes: int
    draws: int
    undefended: int


class Attacked(Frozen):
    """An image under attack: of every radius of the run the answer at the worst point found, and how far that lies.

    ``answers``: the smoothed classifier's class, or -1 where it abstains; ``undefended``: the model's at its own worst
    point. ``forwards`` and ``gradients``: of the model, for one image.
    """

    id: int
    label: int
    answers: tuple[int, ...]
    distances: tuple[float, ...]
    undefended: tuple[int, ...]
    forwards: int
    gradients: int


class Point(Frozen):
    """The shares of images that are right at an L2 radius, and at all smaller ones.

    ``certified``: proved; ``attacked``: of the smoothed classifier, at the points found; ``undefended``: of the model at its
    own; None without an attack. ``abstained``: images whose answer at their point is none.
    """

    radius: float
    certified: Rate
    attacked: Rate | None = None
    undefended: Rate | None = None
    abstained: int | None = None


class Contradiction(Frozen):
    """An image certified as ``certified`` within ``radius`` that is provably of the class ``found`` at ``distance``."""

    id: int
    certified: int
    radius: float
    found: int
    distance: float


class CertifySummary(Frozen):
    """The numbers.

    ``reach``: the radii of the images that are certified and right, ascending: all of the certified curve. ``refused``: the
    share without a certificate. ``clean``: of the model on images without noise. ``contradictions`` should be empty.
    ``forwards`` and ``gradients``: of the model, in all; ``seconds``: of the last session.
    """

    schema_version: int = SCHEMA_VERSION
    asked: CertifyInfo
    n: int
    curve: tuple[Point, ...]
    reach: tuple[float, ...]
    refused: Rate
    clean: Rate
    contradictions: tuple[Contradiction, ...]
    forwards: int
    gradients: int
    seconds: float
    warnings: tuple[Finding, ...] = ()


_DECISIVE = ("sigma", "select", "estimate", "alpha", "decided", "seed", "model", "data")
_CERTIFICATES = Layout(Certified, key=lambda line: (line.id,), identity=_DECISIVE)
_ATTACKS = Layout(Attacked, key=lambda line: (line.id,), identity=(*_DECISIVE, "radii", "attack"))


def certificates_store(folder: Path, info: CertifyInfo, rank: int = 0) -> Part[Certified]:
    """The certificates in ``folder``, to append to; ``done``: (id,). Raises as `part`."""
    return part(folder / CERTIFICATES, info, _CERTIFICATES, rank)


def attacks_store(folder: Path, info: CertifyInfo, rank: int = 0) -> Part[Attacked]:
    """The attacks in ``folder``, likewise."""
    return part(folder / ATTACKS, info, _ATTACKS, rank)


def read_certified(folder: Path) -> Iterator[Certified]:
    """The certificates of a run folder. Raises BadFile."""
    return whole(folder / CERTIFICATES / OUTCOMES, Certified)


def read_attacked(folder: Path) -> Iterator[Attacked]:
    """The attacks of a run folder. Raises BadFile."""
    return whole(folder / ATTACKS / OUTCOMES, Attacked)


def read_certify_summary(folder: Path) -> CertifySummary:
    """The numbers of a finished run. Raises BadFile."""
    return read_document(folder / DOCUMENT, CertifySummary)
