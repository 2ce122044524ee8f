"""The classifiers of the library torchvision."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from holdfast.foundation.errors import BadFile, BadModel, UnknownName
from holdfast.foundation.extras import missing
from holdfast.foundation.registry import register
from holdfast.models import weights as weight_files
from holdfast.models.normalisation import Moments
from holdfast.models.origin import Asked, Found

_TRANSFORM_INPUT = ("googlenet", "inception_v3")


@register
class Torchvision:
    """torchvision:NAME, or torchvision:NAME.WEIGHTS for other weights than the default ones.

    ``--weights pretrained`` takes the published weights from torch's cache, with the normalisation, input size and class
    names that belong to them; they are fetched only with ``--download``. Options are torchvision's own (``num_classes``).
    """

    written: ClassVar[str] = "torchvision:NAME"
    weights: ClassVar[bool] = True
    publishes: ClassVar[bool] = True

    @staticmethod
    def recognises(given: str) -> bool:
        return given.startswith("torchvision:")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        try:
            from torchvision import models
        except Exception as error:  # a torchvision of another torch fails with RuntimeError
            raise missing("torchvision", extra="torchvision") from error
        name, _, version = given.partition(":")[2].partition(".")
        known = models.list_models(module=models)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise UnknownName.among("torchvision classifier", name, near or known)
        enum = models.get_model_weights(name)
        if version and version not in enum.__members__:
            raise UnknownName.among(f"weights of {name}", version, enum.__members__)
        published = enum[version] if version else enum.DEFAULT
        options = dict(asked.options)
        if asked.pretrained:
            options.setdefault("num_classes", len(published.meta["categories"]))
        if name in _TRANSFORM_INPUT:  # their other initialisation takes minutes
            options = {"init_weights": False, "transform_input": asked.pretrained, **options}
        try:
            module = models.get_model(name, weights=None, **options)
        except (TypeError, ValueError) as error:
            raise BadModel(f"torchvision cannot make {name}: {error}", hint="check the options") from error
        if not asked.pretrained:
            return Found(module, given)
        _fill(module, published, download=asked.download)
        told = published.transforms()
        (side,) = told.crop_size
        return Found(
            module=module,
            name=f"torchvision:{name}.{published.name}",
            shape=(3, side, side),
            moments=Moments(tuple(told.mean), tuple(told.std)),
            class_names=tuple(published.meta["categories"]),
        )


def _fill(module: nn.Module, published: Any, *, download: bool) -> None:
    """Puts the published weights in; they are read as weights alone, which torchvision's own loader does not insist on."""
    file = published.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        if not download:
            raise BadFile(f"{path} is not there: the weights {published} were not fetched", hint="add --download")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            checksum = file.rpartition("-")[2].partition(".")[0]
            torch.hub.download_url_to_file(published.url, str(path), hash_prefix=checksum, progress=False)
        except (OSError, RuntimeError) as error:
            raise BadFile(
                f"{published.url} cannot be fetched: {error}", hint="check the network, or copy the file"
            ) from error
    weight_files.put(module, weight_files.read(path).state, path=str(path))
