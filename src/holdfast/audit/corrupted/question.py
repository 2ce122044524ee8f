"""What a run over corruptions is asked: which, how severe, by whose constants, and where the corrupted images come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.audit.corrupted.error import TEST, VALIDATION
from holdfast.corruptions.corruption import SEVERITIES, Corruption, check_severity, draw_keys, variant_for
from holdfast.data.released import Released, check_belongs
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadValue, UnknownName
from holdfast.imaging.jpeg import compressed
from holdfast.records.conditions import Frost, Standing

GROUPS = ("all", "test", "validation", "held_out")
"""What can be asked for in place of names: the 15 and our own, the 15, the 4 extra ones, our own that nobody trains on."""


class Supply(Protocol):
    """Where corrupted images come from: generated here, or read from released files."""

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        """The images ``ids`` (n,), which are ``clean`` (n,C,H,W) uint8, under that condition: the same shape and type."""
        ...


@dataclass(frozen=True)
class Generated:
    """Images corrupted on the fly: a pure function of (seed, corruption, severity, image id).

    Args:
        corruptions: by name; ``variant``: of their tables; ``seed``: of their draws.
        jpeg: save and load each image as JPEG of this quality, as ImageNet-C's released images were (85).
    """

    corruptions: dict[str, Corruption]
    variant: str
    seed: int
    jpeg: int | None = None

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        keys = draw_keys(self.seed, corruption, severity, torch.from_numpy(np.ascontiguousarray(ids)).to(clean.device))
        made = self.corruptions[corruption](clean, severity, keys, variant=self.variant)
        return compressed(made, self.jpeg) if self.jpeg else made


@dataclass(frozen=True)
class Stored:
    """Images of released files, by the ids of the clean ones."""

    released: Released

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        return torch.from_numpy(self.released.take(corruption, severity, ids).images).to(clean.device)


@dataclass(frozen=True)
class Asked:
    """What a run over corruptions was asked for, checked. ``info`` fields of the same names say what each means."""

    corruptions: tuple[str, ...]
    standing: dict[str, Standing]
    severities: tuple[int, ...]
    variant: str
    supply: Supply
    frost: Frost
    jpeg: int | None
    released: Released | None
    seed: int


def asked(
    source: Source,
    *,
    corruptions: Sequence[str] = ("all",),
    severities: Sequence[int] = SEVERITIES,
    variant: str | None = None,
    frost: Sequence[np.ndarray] = (),
    jpeg: int | None = None,
    released: Released | None = None,
    seed: int = 0,
) -> Asked:
    """What was asked for, checked before any work.

    Args:
        source: the clean images.
        corruptions: names, or of `GROUPS`.
        severities: of 1 to 5.
        variant: whose constants to take; by the size of the images unless given.
        frost: the photographs of the original benchmark, (3,H,W) uint8; a procedural frost unless given.
        jpeg: the quality of a JPEG that every image goes through after its corruption.
        released: files to read the images from in place of making them.
        seed: of the draws.

    Raises:
        UnknownName: a corruption or variant that is not there, with the nearest names.
        BadValue: a severity or quality that does not exist, a variant for images of another size.
        BadData: images that cannot be corrupted, or released files of other images.
    """
    if source.shape[0] not in (1, 3):
        raise BadData(
            f"images of {source.shape[0]} channels cannot be corrupted", hint="give grey or RGB images: 1 or 3 channels"
        )
    if jpeg is not None and (released is not None or not 1 <= jpeg <= 100):
        raise BadValue(
            f"jpeg is {jpeg} {'for released files' if released is not None else ''}".rstrip(),
            hint="give a quality from 1 to 100 for images that are made here; ImageNet-C used 85",
        )
    levels = tuple(sorted({check_severity(severity) for severity in severities}))
    if not levels:
        raise BadValue("no severity is given", hint="leave severities out for 1 to 5")
    chosen = variant_for(source.shape[1:], variant)
    if released is not None:
        check_belongs(released, source)
        found = {name: _standing(name) for name in _ordered(released.corruptions)}
        names = _named(corruptions, found, where=f"corruption in {released.name}")
        origin: Frost = "released files" if "frost" in names else ""
        return Asked(names, found, levels, chosen, Stored(released), origin, None, released, seed)
    kinds = {name: registry.load("corruption", name) for name in _ordered(registry.names("corruption"))}
    names = _named(corruptions, {name: kind.standing for name, kind in kinds.items()}, where="corruption")
    made: dict[str, Corruption] = {}
    pictures = tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in frost)
    for name in names:
        made[name] = kinds[name](pictures=pictures) if name == "frost" else kinds[name]()
    told: Frost = ("photographs" if frost else "procedural") if "frost" in names else ""
    standing: dict[str, Standing] = {name: kinds[name].standing for name in names}
    return Asked(names, standing, levels, chosen, Generated(made, chosen, seed, jpeg), told, jpeg, None, seed)


def _ordered(names: Sequence[str]) -> list[str]:
    """The benchmark's order, then the alphabet."""
    known = [*TEST, *VALIDATION]
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _standing(name: str) -> Standing:
    return "test" if name in TEST else "validation" if name in VALIDATION else "foreign"


def _named(given: Sequence[str], standing: Mapping[str, str], *, where: str) -> tuple[str, ...]:
    groups = {
        "all": [name for name, kind in standing.items() if kind in ("test", "held_out", "foreign")],
        **{group: [name for name, kind in standing.items() if kind == group] for group in GROUPS[1:]},
    }
    found: set[str] = set()
    for name in given:
        if name not in standing and name not in groups:
            raise UnknownName.among(where, name, [*standing, *groups])
        if name in groups and not groups[name]:
            raise BadValue(f"there is no {where} of the group {name}", hint=f"name some of: {', '.join(standing)}")
        found |= set(groups.get(name, [name]))
    if not found:
        raise BadValue("no corruption is given", hint="for example corruptions=['all']")
    return tuple(name for name in standing if name in found)
