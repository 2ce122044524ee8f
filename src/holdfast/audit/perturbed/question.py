"""What a run over perturbations is asked: which, how difficult, by whose constants, and by what their flips are divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.audit.perturbed.flips import ALEXNET_FLIPS, EXTRA, TEST
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadValue, UnknownName
from holdfast.imaging.variant import variant_for
from holdfast.perturbations.perturbation import Perturbation, check_difficulty, draw_keys
from holdfast.records.sequences import SequencesInfo, read_sequences_summary

GROUPS = ("all", "test", "extra")
"""What can be asked for in place of names: the 10 that count (all and test), the extra ones."""


@dataclass(frozen=True)
class Asked:
    """What a run over perturbations was asked for, checked."""

    perturbations: dict[str, Perturbation]
    difficulty: int
    variant: str
    seed: int

    def frames(self, name: str, ids: np.ndarray, clean: Tensor) -> Tensor:
        """The frames (n,F,C,H,W) uint8 of the images ``ids`` (n,), which are ``clean`` (n,C,H,W) uint8."""
        keys = draw_keys(self.seed, name, torch.from_numpy(np.ascontiguousarray(ids)).to(clean.device))
        return self.perturbations[name](clean, keys, difficulty=self.difficulty, variant=self.variant)


def asked(
    source: Source,
    *,
    perturbations: Sequence[str] = ("all",),
    difficulty: int = 1,
    variant: str | None = None,
    seed: int = 0,
) -> Asked:
    """What was asked for, checked before any work.

    Args:
        source: the clean images.
        perturbations: names, or of `GROUPS`.
        difficulty: 1, 2 or 3: stronger noise, and frames that are further apart.
        variant: whose constants to take; by the size of the images unless given.
        seed: of the draws.

    Raises:
        UnknownName: a perturbation or variant that is not there, with the nearest names.
        BadValue: a difficulty that does not exist, a variant for images of another size.
        BadData: images that cannot be perturbed.
    """
    if source.shape[0] not in (1, 3):
        raise BadData(
            f"images of {source.shape[0]} channels cannot be perturbed", hint="give grey or RGB images: 1 or 3 channels"
        )
    known = [*TEST, *EXTRA]
    every = sorted(registry.names("perturbation"), key=lambda name: (known.index(name) if name in known else 99, name))
    kinds = {name: registry.load("perturbation", name) for name in every}
    groups = {
        "all": [name for name in every if kinds[name].standing == "test"],
        "test": [name for name in every if kinds[name].standing == "test"],
        "extra": [name for name in every if kinds[name].standing == "extra"],
    }
    chosen: set[str] = set()
    for name in perturbations:
        if name not in kinds and name not in groups:
            raise UnknownName.among("perturbation", name, [*every, *groups])
        chosen |= set(groups.get(name, [name]))
    if not chosen:
        raise BadValue("no perturbation is given", hint="for example perturbations=['all']")
    made = {name: kinds[name]() for name in every if name in chosen}
    return Asked(made, check_difficulty(difficulty), variant_for(source.shape[1:], variant), seed)


@dataclass(frozen=True)
class Divisor:
    """What flip probabilities are divided by: those of the model ``name``; nothing where there are none."""

    name: str = ""
    flips: Mapping[str, float] = field(default_factory=dict)


def divided_by(baseline: str | Path | None, info: SequencesInfo) -> Divisor:
    """What the flip rates of this run divide by.

    Args:
        baseline: ``alexnet``, or the folder of another model's run; AlexNet for all 10 on ImageNet's 1,000 classes at the
            variant 224 and difficulty 1 unless given, else nothing.

    Raises:
        BadFile: the folder holds no finished run over perturbations.
        BadValue: the baseline was not measured on these perturbations, or never changed its mind.
    """
    counted = [name for name in info.perturbations if info.standing[name] == "test"]
    of_imagenet = len(info.data.class_names) == 1000 and info.variant == "224" and info.difficulty == 1
    if baseline is None and not (of_imagenet and set(TEST) <= set(counted)):
        return Divisor()
    if baseline is None or baseline == "alexnet":
        found = Divisor("AlexNet", ALEXNET_FLIPS)
    else:
        summary = read_sequences_summary(Path(baseline))
        found = Divisor(summary.name, {row.perturbation: row.flip_probability.value for row in summary.rows})
    for name in counted:
        if found.flips.get(name, 0) <= 0:
            raise BadValue(
                f"the baseline {found.name} has no flips for {name}, so that nothing can be divided by them",
                hint="run the baseline's model on the same perturbations first, or leave that one out",
            )
    return found
