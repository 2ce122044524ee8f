"""In what the requests of runs differ, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast.comparison.sides import Info
from holdfast.foundation import units
from holdfast.records.comparison import Change, Group, Kind

_LEFT_OUT = {
    "schema_version",
    "name",
    "created",
    "command",
    "findings",
    "checks",
    "chunk",
    "overlap",
    "standing",
    "note",
}
_REQUEST = {"weights", "normalise", "options", "adapt", "baseline", "slots"}
"""Of what a run was asked for by text, that which shows nowhere else."""
_GROUPS: dict[str, Group] = {
    "model": "model",
    "data": "data",
    "versions": "versions",
    "plan": "plan",
    "stages": "plan",
    "draws": "plan",
}
_RADII = {"eps", "curve"}


def changes(kind: Kind, infos: Sequence[Info]) -> Iterator[Change]:
    """The settings in which the runs differ, in the order of their records."""
    told = [dict(_settings(info)) for info in infos]
    for key in dict.fromkeys(key for settings in told for key in settings):
        values = tuple(settings.get(key) for settings in told)
        if len(set(values)) > 1:
            group, what = _GROUPS.get(key[0], "configuration"), " ".join(key).replace("_", " ")
            # A model, data and versions are those of all parts of a run, and so is how it was asked for.
            own = kind != "worst case" and group in ("plan", "configuration") and key[0] != "asked"
            yield Change(group=group, what=f"{kind}: {what}" if own else what, values=values)


def _settings(info: Info) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path of names, value in words) of everything that is asked for."""
    for key, value in info.model_dump(mode="json").items():
        if key in _LEFT_OUT:
            continue
        if key == "stages":
            for stage in value:
                yield from _flat(("stages", stage["name"]), {k: v for k, v in stage.items() if k != "name"})
        elif key == "request":
            yield from _flat(("asked",), {name: value[name] for name in sorted(_REQUEST & value.keys())})
        else:
            yield from _flat((key,), value)


def _flat(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat((*path, key), each)
    elif path[-1] in _RADII:
        yield path, ", ".join(map(units.show, value)) if isinstance(value, list) else units.show(value)
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
