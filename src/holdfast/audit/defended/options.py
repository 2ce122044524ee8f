"""A defence by its name and settings in text: what the command line and a TOML file give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import torch

from holdfast.audit.defended.views import core_of
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.defences.defence import Defence
from holdfast.defences.mixup_inference import MixupInference
from holdfast.foundation import registry
from holdfast.foundation.calibration import Threshold, threshold
from holdfast.foundation.errors import BadData, BadValue, HoldfastError, UnknownName
from holdfast.imaging.pool import Pool
from holdfast.models.model import Model

MODES = ("pl", "ol", "combined")
FALSE_ALARMS = "false_alarms"
"""A setting of mixup inference in text alone: tau for that rate, on held-out images of the data."""
HELD_OUT = 500
"""How many held-out images a threshold is calibrated on, at most."""


def built(name: str, options: Mapping[str, Any], *, pool: Pool | None = None) -> Defence:
    """The defence of that name with those settings; parts of parts by dots: ``{"ol.lam": 0.6}``.

    Mixup inference also takes ``mode`` (``ol``, the default, ``pl`` or ``combined`` with the authors' averages), and ``lam``
    and ``num_draws`` for every average that it uses.

    Args:
        pool: for a defence that keeps clean images.

    Raises:
        UnknownName: no defence, or no setting, of that name; the hint gives the nearest.
        BadValue: a value that the defence refuses, a pool that is missing, or one that nothing uses.
    """
    kind = registry.load("defence", name)
    given = dict(options)
    needs_pool = "pool" in _fields(kind)
    if needs_pool != (pool is not None):
        what = "keeps clean images, and no pool is given" if needs_pool else "keeps no images, and a pool is given"
        remedy = "give --pool with training images" if needs_pool else "leave --pool out"
        raise BadValue(f"{name} {what}", hint=remedy)
    start: dict[str, Any] = {"pool": pool} if needs_pool else {}
    if name == "mixup_inference":
        given = _mixup(given)
        given.pop(FALSE_ALARMS, None)
    try:
        return made(kind, {**given, **start}, name)
    except HoldfastError:
        raise
    except (TypeError, ValueError) as error:  # what a foreign dataclass says of values of a wrong kind
        raise BadValue(f"{name} refuses its options: {error}", hint="see docs/defences.md for each option") from None


def _mixup(given: dict[str, Any]) -> dict[str, Any]:
    """``mode``, ``lam`` and ``num_draws`` as the settings that they stand for."""
    mode = given.pop("mode", "ol")
    if mode not in MODES:
        raise UnknownName.among("mode", str(mode), MODES)
    used = ("pl", "ol") if mode == "combined" else (mode,)
    defaults = {"pl": {"lam": 0.5, "num_draws": 5}, "ol": {"lam": 0.4, "num_draws": 15}} if mode == "combined" else {}
    found: dict[str, Any] = {} if "ol" in used else {"ol": None}
    for branch in used:
        for setting in ("lam", "num_draws"):
            value = given.get(setting, defaults.get(branch, {}).get(setting))
            if value is not None:
                found[f"{branch}.{setting}"] = value
        if not any(key.startswith(f"{branch}.") for key in {**found, **given}):
            found[f"{branch}.lam"] = 0.5
    for label in given:
        part = label.partition(".")[0]
        if part in ("pl", "ol") and part not in used:
            raise BadValue(f"{label} is given, and the mode is {mode}", hint=f"leave it out, or add mode={part}")
    return {**found, **{key: value for key, value in given.items() if key not in ("lam", "num_draws")}}


def _fields(kind: Any) -> dict[str, Any]:
    return {one.name: one for one in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


def made(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass from settings by dotted names."""
    fields, parts = _fields(kind), {}
    for label, value in given.items():
        first, dot, rest = label.partition(".")
        if first not in fields:
            raise UnknownName.among(f"option of {where}", first, fields)
        if dot:
            parts.setdefault(first, {})[rest] = value
    values = {label: _value(value, fields[label], kind) for label, value in given.items() if "." not in label}
    for first, settings in parts.items():
        inner = next((each for each in _types(get_type_hints(kind)[first]) if dataclasses.is_dataclass(each)), None)
        if inner is None:
            raise BadValue(f"{where} has no part {first!r} with settings of its own", hint=f"give {first}=VALUE")
        values[first] = made(inner, settings, f"{where}.{first}")
    return kind(**values)


def _value(value: Any, one: Any, kind: Any) -> Any:
    """A value of text as the field takes it: a whole number is a float where that is wanted, a list is a tuple."""
    if isinstance(value, list):
        return tuple(value)
    types = _types(get_type_hints(kind)[one.name])
    if isinstance(value, int) and not isinstance(value, bool) and float in types and int not in types:
        return float(value)
    known = [each for each in types if each in (bool, int, float, str, type(None))]
    if known and len(known) == len(types) and not isinstance(value, tuple(known)):
        wanted = " or ".join(each.__name__ for each in known)
        raise BadValue(f"{one.name} is {value!r}; it must be {wanted}", hint=f"write {one.name}=VALUE of that kind")
    return value


def _types(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    members = getattr(hint, "__args__", ())
    return tuple(members) if members and getattr(hint, "__origin__", None) is not tuple else (hint,)


def pool_from(source: Source, *, per_class: int, seed: int, foreign: bool = False) -> Pool:
    """A pool of ``per_class`` images of each class of the source, whose ids and labels are read once.

    ``foreign``: whether these classes are not those of the model.
    """
    ids = np.asarray(source.ids)
    labels = np.concatenate(
        [np.asarray(source.take(part).labels) for part in np.array_split(ids, -(-len(ids) // 2000))]
    )
    order = np.argsort(np.random.PCG64(seed).random_raw(len(ids)), kind="stable")
    chosen = np.sort(np.concatenate([order[labels[order] == label][:per_class] for label in np.unique(labels)]))
    batch = source.take(ids[chosen])
    return Pool.of(batch.images, batch.labels, source=source.name, foreign=foreign)


def calibrated(defence: Any, model: Model, source: Source, tested: np.ndarray, rate: float) -> tuple[Any, Threshold]:
    """MI-Combined with the ``tau`` that flags a clean image at that rate, on images of the source that are not ``tested``.

    Raises:
        BadValue: the defence has no such threshold, or there are too few images.
        BadData: no image is left.
    """
    if not isinstance(defence, MixupInference) or not defence.combined:
        raise BadValue(
            f"{FALSE_ALARMS} sets the threshold of MI-Combined, and there is none",
            hint="add mode=combined, or leave it out",
        )
    left = np.setdiff1d(np.asarray(source.ids), tested)[:HELD_OUT]
    if not len(left):
        raise BadData("every image is under test, and none is left to calibrate on", hint="give a smaller --limit")
    images, _ = tensors(source, left, dtype=model.dtype, device=model.device)
    wrapped = defence.wrap(core_of(model))
    with torch.no_grad():
        gaps = torch.cat([wrapped.answer(part).gap for part in images.split(64)])
    found = threshold(gaps.cpu().numpy(), false_alarms=rate)
    return replace(defence, tau=found.value), found
