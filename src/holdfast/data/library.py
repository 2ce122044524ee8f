"""What every library that reads data sets offers."""

from __future__ import annotations

from typing import Protocol

from holdfast.data.size import Size
from holdfast.data.source import Source


class Library(Protocol):
    """What a function marked ``@register`` in `holdfast.data.libraries` is, named as ``--data LIBRARY:SET``."""

    def __call__(self, named: str, *, split: str | None, size: Size | None, download: bool) -> Source:
        """The set that the text after the colon names.

        Args:
            named: the set, and where it lies.
            split: the part to read; by default the test part where there is one.
            size: (H, W) to which `holdfast.data.size.cropped` brings every image; where they are not encoded, refused.
            download: what is not on this machine may be fetched.

        Raises:
            BadFile: the library is not installed, or the set is not there.
            BadValue: a size for images that are not encoded.
            UnknownName: a set or a split that it does not have.
            BadData: images or labels that cannot be evaluated.
        """
        ...
