"""A run folder as a card sees it: what was measured of which model, and with which doubts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.foundation.errors import BadFile, BadValue
from holdfast.records.schema import DataInfo, Finding, ModelInfo
from holdfast.records.store import RUN
from holdfast.report.corrupted import Corrupted, has_corruptions, read_corrupted
from holdfast.report.defended import Defended, has_defended, read_defence
from holdfast.report.perturbed import Perturbed, has_perturbations, read_perturbed
from holdfast.report.read import Run, read


@dataclass(frozen=True)
class Measured:
    """The parts of a run; at least one is there."""

    worst: Run | None
    weather: Corrupted | None
    films: Perturbed | None
    guard: Defended | None

    @property
    def parts(self) -> tuple[Run | Corrupted | Perturbed | Defended, ...]:
        """Those that are there."""
        return tuple(part for part in (self.worst, self.weather, self.films, self.guard) if part)

    @property
    def model(self) -> ModelInfo:
        """The model, which is that of every part."""
        return self.parts[0].info.model

    @property
    def data(self) -> DataInfo:
        """The images, which are those of every part."""
        return self.parts[0].info.data

    @property
    def doubts(self) -> tuple[Finding, ...]:
        """The reasons to doubt the numbers, each once."""
        every = dict.fromkeys(doubt for part in self.parts for doubt in part.summary.warnings)
        return tuple(every)


def measured(folder: Path) -> Measured:
    """What is in a run folder.

    Raises:
        BadFile: there is no finished run, or it is damaged.
        BadValue: its parts are of different models or images.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no run folder {folder}", hint="give the folder that holdfast audit wrote with --out")
    found = Measured(
        read(folder) if (folder / RUN).exists() else None,
        read_corrupted(folder) if has_corruptions(folder) else None,
        read_perturbed(folder) if has_perturbations(folder) else None,
        read_defence(folder) if has_defended(folder) else None,
    )
    if not found.parts:
        raise BadFile(f"{folder} holds no finished audit", hint="run the audit to its end: it goes on where it stopped")
    for what in ("model", "data"):
        prints = {getattr(part.info, what).fingerprint for part in found.parts}
        if len(prints) > 1:
            raise BadValue(
                f"{folder} holds audits of {len(prints)} different {what}s", hint="write a card of one model on one set"
            )
    return found
