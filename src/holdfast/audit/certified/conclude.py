"""From certificates and attacked images to the curves, the contradictions between them, and what is to be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from holdfast.audit.corrupted.notes import finding
from holdfast.audit.corrupted.overlap import overlap
from holdfast.audit.defended.outcome import share
from holdfast.defences.certificate import ABSTAINS
from holdfast.foundation.errors import BadFile
from holdfast.records.certified import (
    DOCUMENT,
    Attacked,
    Certified,
    CertifyInfo,
    CertifySummary,
    Contradiction,
    Point,
    read_attacked,
    read_certified,
)
from holdfast.records.files import write_atomic
from holdfast.records.schema import Finding, Rate

UNSUITED = 0.1
"""The share of images that smoothing loses without any attack from which on the model is called unsuited."""


def conclude_certified(folder: Path, info: CertifyInfo, seconds: float) -> CertifySummary:
    """Writes ``certify.json``; a pure function of the lines, but for the seconds.

    Raises:
        BadFile: lines are missing.
    """
    certificates = {line.id: line for line in read_certified(folder)}
    attacks = {line.id: line for line in read_attacked(folder)} if info.attack else {}
    if len(certificates) != info.data.n or (info.attack and attacks.keys() != certificates.keys()):
        raise BadFile(f"{folder} lacks images", hint="run the same command again: it goes on where it stopped")
    pairs = [(line, attacks.get(key)) for key, line in sorted(certificates.items())]
    right = [line for line, _ in pairs if line.certified == line.label]
    refused = share([line.certified == ABSTAINS for line, _ in pairs])
    clean = share([line.undefended == line.label for line, _ in pairs])
    curve = tuple(_points(pairs, info.radii))
    summary = CertifySummary(
        asked=info,
        n=len(pairs),
        curve=curve,
        reach=tuple(sorted(line.radius for line in right)),
        refused=refused,
        clean=clean,
        contradictions=tuple(
            found for one, other in pairs if other for found in contradictions(one, other, info.radii)
        ),
        forwards=sum(line.draws + 1 for line in certificates.values())
        + sum(line.forwards for line in attacks.values()),
        gradients=sum(line.gradients for line in attacks.values()),
        seconds=seconds,
        warnings=tuple(_findings(info, certificates, refused, clean, curve[0].certified)),
    )
    write_atomic(folder / DOCUMENT, [summary.model_dump_json(indent=2).encode()])
    return summary


def certified_right(line: Certified, radius: float) -> bool:
    """Whether an image is proved to be right within that radius."""
    return line.certified == line.label and line.radius >= radius


def holds(certificate: Certified, attack: Attacked, radii: Sequence[float]) -> list[bool]:
    """Whether the smoothed classifier is right at each radius and at all smaller ones, as far as the attack knows.

    An abstention is not right, except within the image's own certificate: there the class is known, and it is the draws of
    the answer that were too few.
    """
    found, so_far = [], True
    for radius, answer in zip(radii, attack.answers):
        known = answer == ABSTAINS and certified_right(certificate, radius)
        so_far = so_far and (answer == attack.label or known)
        found.append(so_far)
    return found


def contradictions(certificate: Certified, attack: Attacked, radii: Sequence[float]) -> list[Contradiction]:
    """The nearest point, if any, at which the class is provably another than the one that is certified there.

    A projected point lies within its radius up to rounding; it is held to the smaller one of radius and distance.
    """
    if certificate.certified == ABSTAINS:
        return []
    for radius, answer, far in zip(radii, attack.answers, attack.distances):
        distance = min(radius, far)
        if answer not in (ABSTAINS, certificate.certified) and distance <= certificate.radius:
            return [
                Contradiction(
                    id=certificate.id,
                    certified=certificate.certified,
                    radius=certificate.radius,
                    found=answer,
                    distance=distance,
                )
            ]
    return []


def by_chance(info: CertifyInfo) -> float:
    """How many images may be contradicted although all is well, at most, on average: every proof fails by ``alpha``."""
    return info.data.n * info.alpha * (1 + len(info.radii))


def _points(pairs: Sequence[tuple[Certified, Attacked | None]], radii: Sequence[float]) -> Iterator[Point]:
    attacked = [(one, other) for one, other in pairs if other]
    right = [holds(one, other, radii) for one, other in attacked]
    for place, radius in enumerate(radii):
        certified = share([certified_right(one, radius) for one, _ in pairs])
        if not attacked:
            yield Point(radius=radius, certified=certified)
            continue
        alone = [set(other.undefended[: place + 1]) == {other.label} for _, other in attacked]
        yield Point(
            radius=radius,
            certified=certified,
            attacked=share([each[place] for each in right]),
            undefended=share(alone),
            abstained=sum(other.answers[place] == ABSTAINS for _, other in attacked),
        )


def _findings(
    info: CertifyInfo, lines: Mapping[int, Certified], refused: Rate, clean: Rate, certified: Rate
) -> Iterator[Finding]:
    yield from info.findings
    if max(refused.value, clean.value - certified.value) >= UNSUITED:
        votes = median(line.votes / (line.draws - info.select) for line in lines.values())
        noisy = "gaussian_noise" in (overlap(info.model.declared, ()).declared or ())
        recipe = f"--recipe smoothing --set options.sigma={info.sigma:g}"
        yield finding(
            "unsuited model",
            "warning",
            f"{100 * refused.value:.1f} % of images get no certificate; {100 * certified.value:.1f} % are certified in "
            f"their own class, and {100 * clean.value:.1f} % are right without noise; the selected class has "
            f"{100 * votes:.1f} % of an image's noisy copies, in the median",
            f"noise of {info.sigma:g} costs {100 * (clean.value - certified.value):.1f} points before any attack"
            + (", though its weights declare training on noise" if noisy else ""),
            f"train it on such noise (holdfast train {recipe}), or certify at a smaller --sigma",
        )
    capped = share([line.radius >= info.largest * (1 - 1e-6) for line in lines.values()])
    if capped.value >= UNSUITED:
        yield finding(
            "draws are the limit",
            "note",
            f"{100 * capped.value:.1f} % of images reach {info.largest:.4g}, the largest radius "
            + ("asked for " if info.decided else "")
            + f"that {info.estimate:,} draws can certify",
            "what is certified of them is what the draws can show, not what the classifier can",
            "add --radii, or raise --estimate" if info.decided else "raise --estimate",
        )
