"""The options by which commands ask for common corruptions and perturbation sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.ascent.meter import Classifier
    from holdfast.audit.config import AuditConfig
    from holdfast.audit.corrupted.question import Asked
    from holdfast.audit.perturbed.question import Asked as Films
    from holdfast.data.source import Source
    from holdfast.models.model import Model


@Parameter(name="*", group="Corruptions")
@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """What is asked of the corruptions."""

    corruptions: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None
    """Evaluate under these, too: names, or all (the 15 of ImageNet-C and our held-out ones), test, validation, held_out."""
    severities: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None
    """Which severities, of 1 to 5; all unless given."""
    variant: str | None = None
    """Whose constants: 32 (CIFAR-10-C), 64 (Tiny-ImageNet-C), 224 (ImageNet-C); by the images' size unless given."""
    frost_dir: str | None = None
    """The folder of ImageNet-C's frost photographs; without it the frost is procedural."""
    released: str | None = None
    """A folder of released files (CIFAR-10-C, ImageNet-C): these images are read, and none made."""
    jpeg: int | None = None
    """Send every image through a JPEG of this quality after its corruption; ImageNet-C's files had 85."""

    def given(self) -> dict[str, Any]:
        """The options that were given."""
        found = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items() if value is not None
        }


@Parameter(name="*", group="Corruptions")
@dataclass(frozen=True, kw_only=True)
class Natural(Corrupted):
    """What is asked of the corruptions and of the perturbation sequences."""

    adapt: str | None = None
    """Let a defence adapt the model to each corruption: bn_adaptation or tent. Compare with other adapted models only."""
    baseline: str | None = None
    """What errors and flips are divided by to make mCE and mFR: alexnet, or the folder of another model's run."""
    perturbations: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None
    """Follow the model along these sequences of frames, too: names, or all (the 10 of ImageNet-P), extra."""
    difficulty: int | None = None
    """Of the sequences: 1 (the default), 2 or 3."""


def asked_of(config: AuditConfig, source: Source) -> Asked:
    """What the configuration asks of the corruptions, checked; reads the frost photographs."""
    from pathlib import Path

    from holdfast.audit.corrupted.question import asked
    from holdfast.data.frost import frost_photographs
    from holdfast.data.released import open_released

    return asked(
        source,
        corruptions=config.corruptions,
        severities=config.severities,
        variant=config.variant,
        frost=frost_photographs(Path(config.frost_dir)) if config.frost_dir is not None else (),
        jpeg=config.jpeg,
        released=open_released(Path(config.released)) if config.released is not None else None,
        seed=config.seed,
    )


def sequences_of(config: AuditConfig, source: Source) -> Films:
    """What the configuration asks of the perturbation sequences, checked."""
    from holdfast.audit.perturbed.question import asked

    return asked(
        source,
        perturbations=config.perturbations,
        difficulty=config.difficulty,
        variant=config.variant,
        seed=config.seed,
    )


def adaptation(name: str, model: Model) -> Callable[[Model], Classifier]:
    """What makes a fresh classifier that adapts by this defence; the model must be one that it can adapt.

    Raises:
        UnknownName: there is no such defence.
        BadValue: it does not adapt to what it is shown.
        BadModel: it cannot adapt this model.
    """
    from holdfast.foundation import registry
    from holdfast.foundation.errors import BadValue

    kind = registry.load("defence", name)
    if not kind.transductive:
        raise BadValue(f"{name} does not adapt to the images", hint="give --adapt bn_adaptation or --adapt tent")
    defence = kind()
    defence.wrap(model.module)
    return lambda each: defence.wrap(each.module)
