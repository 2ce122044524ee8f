"""Which questions are asked, with which settings: validated once, here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.audit.config import option
from holdfast.experiments.configure import validated
from holdfast.explain.probe import Probe
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName


def configured(names: Sequence[str] | None, pairs: Sequence[str] = ()) -> dict[str, Probe]:
    """The probes of these names, or all, with settings given as ``PROBE.KEY=VALUE``.

    Raises:
        UnknownName: a probe or a setting that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind or outside its range, or a setting of a probe that is not asked.
    """
    asked = dict.fromkeys(registry.names("probe") if names is None else names)
    settings: dict[str, dict[str, Any]] = {}
    for key, value in map(option, pairs):
        name, point, field = key.partition(".")
        if not point:
            raise BadValue(f"the setting {key!r} names no probe", hint="write --set restarts.num=100")
        if name not in asked:
            raise UnknownName.among("probe with settings", name, list(asked))
        settings.setdefault(name, {})[field] = value
    return {name: validated(registry.load("probe", name), settings.get(name, {}), name) for name in asked}
