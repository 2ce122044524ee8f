"""Detectors by their names and settings in text: what the command line gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.audit.defended.options import made
from holdfast.detectors.detector import Detector
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, HoldfastError

EXTRA = "extra_class"
"""The detector that takes the net's last output for a class of its own."""


def suited(outputs: int, classes: int) -> tuple[str, ...]:
    """The detectors that need nothing but the model and training images; `EXTRA` where there is one output more than the
    data has classes."""
    return tuple(name for name in registry.names("detector") if name != EXTRA or outputs == classes + 1)


def built(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Detector]:
    """The detectors of those names with settings of the form ``{"energy.temperature": 2.0}``.

    Raises:
        UnknownName: no detector, or no setting, of that name; the hint gives the nearest.
        BadValue: a value that a detector refuses, a setting of a detector that is not asked for, or no detector.
    """
    kinds = {name: registry.load("detector", name) for name in names}
    if not kinds:
        raise BadValue("no detector is given", hint="leave --detector out for all that suit the model")
    settings: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for label, value in options.items():
        name, dot, key = label.partition(".")
        if not dot:
            raise BadValue(f"the option {label!r} names no detector", hint="write NAME.KEY=VALUE: energy.temperature=2")
        if name not in kinds:
            _ = registry.load("detector", name)  # a name that is none is told with the nearest ones
            raise BadValue(
                f"{label} is given, and {name} is not asked for", hint=f"add --detector {name}, or leave it out"
            )
        settings[name][key] = value
    return {name: _built(kind, settings[name], name) for name, kind in kinds.items()}


def _built(kind: Any, given: Mapping[str, Any], name: str) -> Detector:
    try:
        return made(kind, given, name)
    except HoldfastError:
        raise
    except (TypeError, ValueError) as error:  # what a foreign dataclass says of values of a wrong kind
        raise BadValue(f"{name} refuses its options: {error}", hint="see docs/defences.md for each option") from None
