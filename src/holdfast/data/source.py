"""What every kind of data becomes: images and labels, asked for by sample ids that never change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from holdfast.data.fingerprint import digest, of_array
from holdfast.data.size import Size
from holdfast.foundation.errors import BadData, BadValue, UnknownName


class Batch(NamedTuple):
    """``images`` (n,C,H,W), uint8 or float32/float64 in [0, 1]; ``labels`` (n,) int64, not negative."""

    images: np.ndarray
    labels: np.ndarray


class Takes(Protocol):
    """Something that samples are taken from: a source, or what decodes a source's images ahead."""

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        """The samples of these ids, in the order given; an id may come twice.

        Raises:
            BadValue: an id that the source does not have.
            BadData, BadFile: an image that cannot be evaluated or read.
        """
        ...


@runtime_checkable
class Source(Takes, Protocol):
    """Labelled images of one size.

    ``ids`` are ascending int64 numbers; the same files give the same ids in every run. ``shape`` is (C, H, W).
    ``class_names`` has one entry per class, in the order of the labels.
    """

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def ids(self) -> np.ndarray: ...
    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the samples do; see `holdfast.data.fingerprint` for how closely."""
        ...


@runtime_checkable
class Concurrent(Source, Protocol):
    """A source that says of `take` whether several threads may call it at once and gain by it: whether it decodes files."""

    @property
    def concurrent(self) -> bool: ...


class Layout(Protocol):
    """What a class marked ``@register`` in this folder offers: a way in which data lies on the disk.

    ``looks_for`` says in words what `recognises` wants to see; where ``needs_path`` is False the name alone suffices.
    """

    needs_path: ClassVar[bool]
    looks_for: ClassVar[str]

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether what lies at ``path`` is of this layout; reads a few bytes at most."""
        ...

    @staticmethod
    def open(path: Path | None, *, split: str | None, size: Size | None) -> Source:
        """The data at ``path``, brought to ``size`` by `holdfast.data.size.cropped` where that is given.

        Raises:
            BadFile, BadData: it is broken.
            UnknownName: a split it lacks.
            BadValue: a size, and the images are not encoded.
        """
        ...


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the samples of another source, under the ids they have there."""

    source: Source
    ids: np.ndarray

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def concurrent(self) -> bool:
        return isinstance(self.source, Concurrent) and self.source.concurrent

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        locate(self.ids, ids, where=self.name)
        return self.source.take(ids)

    def fingerprint(self) -> str:
        return digest("subset", self.source.fingerprint(), of_array(self.ids))


def subset(source: Source, limit: int, seed: int) -> Source:
    """``limit`` samples drawn without replacement, ids ascending; a smaller limit draws a part of a larger one's.

    The draw depends on the seed and the length alone. It sorts the raw output of PCG64, whose stream NumPy promises
    never to change; its ``choice`` and ``permutation`` carry no such promise. A limit of at least ``len(source)`` gives
    the source itself.

    Raises:
        BadValue: a limit below 1, or a negative seed.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit <= 0:
        raise BadValue(f"limit is {limit!r}; it must be a positive integer", hint="leave it out to take every sample")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise BadValue(f"seed is {seed!r}; it must be a non-negative integer", hint="give seed=0")
    if limit >= len(source):
        return source
    keys = np.random.PCG64(int(seed)).random_raw(len(source))
    chosen = np.sort(np.argsort(keys, kind="stable")[: int(limit)])
    return Subset(source, np.asarray(source.ids)[chosen])


def unit_images(images: np.ndarray) -> np.ndarray:
    """Images as floats in [0, 1]: uint8 becomes float32 / 255, float32 and float64 pass unchanged."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype in (np.float32, np.float64):
        return images
    raise BadData(f"images of type {images.dtype} have no agreed range", hint="give uint8, or floats in [0, 1]")


def locate(ids: np.ndarray, wanted: np.ndarray | Sequence[int], *, where: str) -> np.ndarray:
    """The positions (n,) of ``wanted`` among the ascending ``ids``. Raises BadValue for an id that is not there."""
    asked = np.asarray(wanted)
    if asked.size == 0:
        return np.zeros(0, dtype=np.int64)
    if asked.ndim != 1 or asked.dtype.kind not in "iu":
        raise BadValue(
            f"sample ids of {where} came as {asked.dtype} of shape {asked.shape}", hint="give a flat list of integers"
        )
    places = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    missing = np.flatnonzero(ids[places] != asked)
    if len(missing):
        raise BadValue(f"{where} has no sample {asked[missing[0]]}", hint=f"take ids from its {len(ids)} ids only")
    return places


def pick_split(available: Iterable[str], split: str | None, *, where: str) -> str:
    """The part to read: the one asked for; else the only one, or the test or validation part.

    Raises:
        UnknownName: a split that is not there.
        BadValue: none was asked for and it is not clear which one is meant.
    """
    names = sorted(available)
    if split is not None:
        if split not in names:
            raise UnknownName.among(f"split of {where}", split, names)
        return split
    for name in ("test", "validation", "val", "valid"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise BadValue(f"{where} has the parts {', '.join(names)}", hint=f"say which, for example split={names[0]!r}")


def numbered(count: int) -> tuple[str, ...]:
    """The names of classes that have none: ("0", "1", ...)."""
    return tuple(str(number) for number in range(count))
