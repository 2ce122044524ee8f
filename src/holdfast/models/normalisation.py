"""The only parser of ``--normalise``: a preset's name, or ``"m1,m2,m3/s1,s2,s3"``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.foundation.errors import BadFile, BadValue, UnknownName


class Moments(NamedTuple):
    """Mean and standard deviation, one number per channel, or one for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return "/".join(",".join(f"{value:.7g}" for value in part) for part in self)


PRESETS = {
    "imagenet": Moments((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Moments((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": Moments((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Moments((0.1307,), (0.3081,)),
}
"""The statistics that published models of these data sets are usually trained behind."""

_HINT = f"name one of {', '.join(PRESETS)}, or give means/deviations, e.g. 0.1307/0.3081 or 0.5,0.5,0.5/0.25,0.25,0.25"


def parse(given: str | Sequence[Sequence[float]]) -> Moments:
    """The mean and standard deviation that ``given`` stands for.

    Args:
        given: a preset's name, ``"m1,m2,m3/s1,s2,s3"``, or a pair of sequences. ``0/1`` is no normalisation at all.

    Raises:
        UnknownName: a word that is no preset.
        BadValue: anything else that is not a pair of equally long lists of numbers.
    """
    if isinstance(given, str):
        if given in PRESETS:
            return PRESETS[given]
        if given.replace("-", "").replace("_", "").isalnum() and not given[:1].isdigit():
            raise UnknownName.among("normalisation", given, PRESETS)
        parts: Sequence[Any] = [part.split(",") for part in given.split("/")]
    else:
        parts = given
    try:
        mean, std = (tuple(float(value) for value in part) for part in parts)
    except (TypeError, ValueError):
        raise BadValue(f"the normalisation is {given!r}, which is not means and deviations", hint=_HINT) from None
    if len(mean) != len(std) or not mean:
        raise BadValue(f"the normalisation is {given!r}: {len(mean)} means, {len(std)} deviations", hint=_HINT)
    return Moments(mean, std)


def from_metadata(metadata: Mapping[str, str], *, path: str) -> Moments | None:
    """The normalisation that a weights file declares as ``mean`` and ``std``: ``"0.49,0.48,0.44"`` or a JSON list.

    Raises:
        BadFile: only one of the two is there, or one cannot be read.
    """
    found = [metadata.get(key) for key in ("mean", "std")]
    if found == [None, None]:
        return None
    try:
        lists = [
            json.loads(text if text.lstrip().startswith("[") else f"[{text}]") for text in found if text is not None
        ]
        return parse(lists)
    except (ValueError, RecursionError, BadValue):
        raise BadFile(
            f"{path} declares mean={found[0]!r} and std={found[1]!r}, which is not a normalisation",
            hint="say which one it is with normalise=..., or 0/1 for none",
        ) from None
