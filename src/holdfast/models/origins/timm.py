"""The models of the library timm."""

from __future__ import annotations

import difflib
from typing import ClassVar

from holdfast.foundation.errors import BadModel, BadValue, UnknownName
from holdfast.foundation.extras import missing, offline
from holdfast.foundation.registry import register
from holdfast.models.normalisation import Moments
from holdfast.models.origin import Asked, Found


@register
class Timm:
    """timm:NAME, with the normalisation and the input size of timm's data configuration.

    Options are timm's own (``num_classes``, ``in_chans``, ``img_size``). ``--weights pretrained`` takes the published
    weights from timm's cache; they are fetched only with ``--download``.
    """

    written: ClassVar[str] = "timm:NAME"
    weights: ClassVar[bool] = True
    publishes: ClassVar[bool] = True

    @staticmethod
    def recognises(given: str) -> bool:
        return given.startswith("timm:")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        try:
            import timm
        except Exception as error:  # a torchvision of another torch fails with RuntimeError
            raise missing("timm", extra="timm") from error
        name = given.partition(":")[2]
        if not timm.is_model(name):  # also hub addresses, which timm would follow before it is asked for weights
            known = timm.list_models()
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise UnknownName(
                f"timm has no model {name!r} among its {len(known):,}",
                hint=f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()",
            )
        configuration = timm.get_pretrained_cfg(name)
        if asked.pretrained and not asked.download and configuration and not configuration.hf_hub_id:
            raise BadValue(
                f"the published weights of {given} are not in a cache that is looked into", hint="add --download"
            )
        try:
            with offline(not asked.download):
                module = timm.create_model(name, pretrained=asked.pretrained, **asked.options)
        except Exception as error:  # timm's constructors, its cache and the network raise what they like
            hint = "check the options, which are timm's own"
            if asked.pretrained and not asked.download:
                hint = "the weights may not be in timm's cache: add --download to fetch them"
            raise BadModel(f"timm cannot make {name}: {type(error).__name__}: {error}", hint=hint) from error
        told = timm.data.resolve_model_data_config(module)
        channels, height, width = told["input_size"]
        return Found(module, given, (channels, height, width), Moments(tuple(told["mean"]), tuple(told["std"])))
