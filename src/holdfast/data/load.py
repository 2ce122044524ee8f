"""From whatever a user gives to a source of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from holdfast.data.arrays import from_pair
from holdfast.data.decode import ENDINGS
from holdfast.data.items import from_dataset
from holdfast.data.reading import first_bytes, reading
from holdfast.data.size import Size, parsed
from holdfast.data.source import Layout, Source, subset
from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile, BadValue, UnknownName


def load(
    given: Any,
    *,
    split: str | None = None,
    size: int | str | Size | None = None,
    limit: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> Source:
    """A source of what ``given`` names or holds.

    Args:
        given: a name ("digits", "digits:train"); what a library reads ("hf:FOLDER", "torchvision:MNIST:FOLDER"); a path; a
            pair (images, labels) of arrays or tensors; a map-style data set; or a source, which passes. A name wins over a
            file of that name: write "./digits" for the file.
        split: the part of a name or a path to read; by default the test part where there is one.
        size: 224, "224x160" or (224, 160), height by width, to which `holdfast.data.size.cropped` brings every image of
            a folder, of Parquet files, of tar shards or of hf:. Left out, all must have one size.
        limit: how many samples to draw; all where left out.
        seed: the seed of that draw; see `holdfast.data.source.subset`.
        download: what a library has to fetch may be fetched.

    Raises:
        UnknownName: a name or a split that is not there.
        BadFile: a path that is missing, damaged, or of no known kind; the error lists the kinds.
        BadData: images or labels that cannot be evaluated.
        BadValue: an object of another kind, a split or a size where there is none, a limit below 1.
    """
    source = _source(given, split, None if size is None else parsed(size), download)
    return source if limit is None else subset(source, limit, seed)


def _source(given: Any, split: str | None, size: Size | None, download: bool) -> Source:
    if isinstance(given, (str, Path)):
        return _named(given, split, size, download) if isinstance(given, str) else _at(given, split, size)
    if split is not None:
        raise BadValue(
            f"split is {split!r}, and a {type(given).__name__} has no splits",
            hint="give the part itself, without split",
        )
    if size is not None:
        raise BadValue(
            f"size is {size[0]}x{size[1]}, and a {type(given).__name__} is not resized",
            hint="bring the images to that size before, in the data set's transform for example",
        )
    if isinstance(given, Source):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return from_pair(given[0], given[1])
    kind = type(given)
    is_array = hasattr(kind, "__array__")
    if hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and not isinstance(given, (Mapping, tuple, list)):
        if not is_array:
            return from_dataset(given)
        raise BadValue("images came without labels", hint="give the pair (images, labels)")
    hint = "give a name, a path, a pair (images, labels), or a data set with len() and items (image, label)"
    raise BadValue(f"a {kind.__name__} is no data that can be read", hint=f"{hint}; of a DataLoader, its .dataset")


def _named(given: str, split: str | None, size: Size | None, download: bool) -> Source:
    name, colon, part = given.partition(":")
    if colon and name in registry.names("library"):
        return registry.load("library", name)(part, split=split, size=size, download=download)
    if name not in registry.names("data") or _layout(name).needs_path:
        looks_like_name = name.replace("_", "").isalnum()
        if looks_like_name and not Path(given).exists():
            named = [one for one in registry.names("data") if not _layout(one).needs_path]
            unknown = UnknownName.among("data set", name, named)
            near = get_close_matches(given, [one.name for one in Path().iterdir()], cutoff=0.75)
            paths = f"the path {' or '.join(near)}" if near else "the path of a file or folder that exists"
            raise UnknownName(unknown.message, hint=f"{unknown.hint}; or {paths}")
        return _at(Path(given), split, size)
    if colon and split is not None and split != part:
        raise BadValue(f"{given!r} and split={split!r} disagree", hint="name the split once")
    return _layout(name).open(None, split=part if colon else split, size=size)


def _layout(name: str) -> Layout:
    return registry.load("data", name)


def _at(path: Path, split: str | None, size: Size | None) -> Source:
    """The source at a path, by what lies there."""
    with reading(path, what="data"):
        path = path.expanduser()
        if not set(path.name) & set("*?["):  # else a pattern, of which there may be no file
            path.stat()
    layouts = [layout for layout in map(_layout, registry.names("data")) if layout.needs_path]
    found = [layout for layout in layouts if layout.recognises(path)]
    if len(found) == 1:
        return found[0].open(path, split=split, size=size)
    looked_for = "; ".join(layout.looks_for for layout in found or layouts)
    if found:
        raise BadFile(
            f"{path} could be read in {len(found)} ways: {looked_for}", hint="keep one kind of data in a folder"
        )
    if path.is_dir():
        with reading(path, what="a folder"):
            held = sorted(one.name for one in path.iterdir())[:3]
        content = f"a folder with {', '.join(held)}" if held else "an empty folder"
    elif path.suffix.lower() in ENDINGS:
        raise BadFile(
            f"{path} is one image, and images come with their classes",
            hint=f"give the folder that holds a folder of images for each class: {path.parent.parent}",
        )
    else:
        start = first_bytes(path)
        content = f"a file that begins with {start!r}" if start else "an empty file"
    raise BadFile(
        f"{path} is {content}; looked for: {looked_for}",
        hint="convert it to one of these; pickled files (.pkl, .pt, CIFAR's Python version) are never read",
    )
