"""Which of the benchmark's tables of constants fits images of a size: 32 (CIFAR), 64 (Tiny ImageNet) or 224 (ImageNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue

VARIANTS: Mapping[str, tuple[int, int]] = {"32": (1, 64), "64": (32, 128), "224": (112, 1 << 30)}
"""Variant of the tables -> the smallest and the largest shorter side, in pixels, that it may be used for."""

_CHOSEN = (("32", 48), ("64", 112), ("224", 1 << 30))
"""The variant that is taken for images whose shorter side is below the bound, where none is named."""


def variant_for(size: Sequence[int], named: str | None = None) -> str:
    """The variant for images of ``size`` (height, width): the named one, or the one whose size is nearest.

    Raises:
        UnknownName: no variant has that name.
        BadValue: the named variant is for images of another size.
    """
    side = min(size)
    if named is None:
        return next(name for name, bound in _CHOSEN if side < bound)
    low, high = registry.pick("variant", named, VARIANTS)
    if not low <= side <= high:
        raise BadValue(
            f"variant {named!r} is for images of about {named} pixels, these have {size[0]} x {size[1]}",
            hint=f"leave it out: {variant_for(size)!r} fits these",
        )
    return named
