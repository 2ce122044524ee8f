"""Data sets of the library torchvision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.data.items import from_dataset
from holdfast.data.size import Size, refuse
from holdfast.data.source import Source, pick_split
from holdfast.foundation.errors import BadFile, BadValue, UnknownName
from holdfast.foundation.extras import missing
from holdfast.foundation.registry import register

_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}
_SETS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "USPS"), _TRAIN),
    **dict.fromkeys(("STL10", "SVHN"), _SPLIT),
    "PCAM": {**_SPLIT, "val": {"split": "val"}},
    "EuroSAT": {"all": {}},
}
"""The sets of images of one size that torchvision reads without unpickling, and what selects their parts."""


@register
def open_torchvision(named: str, *, split: str | None, size: Size | None, download: bool) -> Source:
    """torchvision:SET:FOLDER, for example torchvision:MNIST:data; fetched into that folder only with --download."""
    name, colon, folder = named.partition(":")
    if name in ("CIFAR10", "CIFAR100"):
        raise BadValue(
            f"torchvision reads {name} from pickles, which are never read here",
            hint="give its binary version (--data cifar-10-batches-bin) or a Parquet file",
        )
    if name not in _SETS:
        raise UnknownName.among("set of torchvision", name, _SETS)
    if not colon or not folder:
        raise BadValue(f"torchvision:{named} names no folder", hint=f"write torchvision:{name}:FOLDER")
    refuse(size, f"torchvision:{name}")
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision of another torch fails with RuntimeError
        raise missing("torchvision", extra="torchvision") from error
    part = pick_split(_SETS[name], split, where=name)
    root = Path(folder).expanduser()
    try:
        held = getattr(datasets, name)(str(root), download=download, **_SETS[name][part])
    except Exception as error:  # a missing or damaged file, a missing library of its own, or the network
        hint = "check the files" if download else "give the folder that torchvision wrote, or add --download"
        raise BadFile(
            f"torchvision cannot read {name} in {root}: {type(error).__name__}: {error}", hint=hint
        ) from error
    return replace(from_dataset(held), name=f"{name}:{part}")
