"""Image classifiers of Hugging Face's library transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from holdfast.foundation.errors import BadFile, BadModel, BadValue
from holdfast.foundation.extras import missing, offline
from holdfast.foundation.registry import register
from holdfast.models.normalisation import Moments
from holdfast.models.origin import Asked, Found

_ID = re.compile(r"[\w.\-]+(/[\w.\-]+)?", re.ASCII)
_REPEATED = re.compile(r"layer|depth|block|stage|repeat")
MOST_LAYERS, MOST_WIDE = 2**12, 2**20
"""What a configuration may ask for: the net is built before its weights are looked at, layer by layer."""


class _Logits(nn.Module):
    """The field ``logits`` of what a classifier returns."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, images: Tensor) -> Tensor:
        return self.core(pixel_values=images).logits


@register
class HuggingFace:
    """hf:FOLDER or hf:OWNER/NAME, with the normalisation and size of its image processor and its class names.

    Only safetensors weights are read. A name is looked up in the local cache, and fetched only with ``--download``. Code
    that comes with a model runs only with ``--trust-code``.
    """

    written: ClassVar[str] = "hf:FOLDER_OR_ID"
    weights: ClassVar[bool] = False
    publishes: ClassVar[bool] = False

    @staticmethod
    def recognises(given: str) -> bool:
        return given.startswith("hf:")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        try:
            from transformers import AutoModelForImageClassification, PretrainedConfig
            from transformers.image_processing_base import ImageProcessingMixin
            from transformers.utils import logging
        except Exception as error:  # a broken neighbour of it (torchvision) may raise anything
            raise missing("transformers", extra="hf") from error
        if asked.options:
            raise BadValue("a model of Hugging Face takes no options", hint="its configuration is in its folder")
        place = given.partition(":")[2]
        local = Path(place).expanduser()
        if not local.is_dir() and (not _ID.fullmatch(place) or place.startswith(".")):
            raise BadFile(f"there is no folder {place}", hint="give a folder with config.json, or OWNER/NAME")
        place = str(local) if local.is_dir() else place
        common: dict[str, Any] = {"local_files_only": not asked.download, "trust_remote_code": asked.trust_code}
        bars, loud = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)  # it prints names out of the files as they are
        try:
            with offline(not asked.download):
                _check_sizes(PretrainedConfig.get_config_dict(place, local_files_only=not asked.download)[0], given)
                core, seen = AutoModelForImageClassification.from_pretrained(
                    place, use_safetensors=True, output_loading_info=True, **common
                )
                try:
                    told = ImageProcessingMixin.get_image_processor_dict(place, **common)[0]
                except OSError:  # it has none: nothing is known of its normalisation
                    told = {}
        except BadModel:
            raise
        except Exception as error:  # transformers raises many kinds
            raise _explained(place, error, local=local.is_dir(), asked=asked) from error
        finally:
            logging.set_verbosity(loud)
            if bars:
                logging.enable_progress_bar()
        absent = sorted(map(str, [*seen["missing_keys"], *seen["mismatched_keys"]]))
        if absent:
            raise BadModel(
                f"{given} lacks the weights {', '.join(absent[:3])} ({len(absent)} in all), which would be drawn at random",
                hint="give a model that was trained for image classification",
            )
        config = core.config
        try:
            shape, moments = _shape(config, told), _moments(told)
            class_names = _names(getattr(config, "id2label", None) or {})
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise BadModel(
                f"the configuration of {given} is not understood: {type(error).__name__}: {error}",
                hint="give a folder that save_pretrained of an image classifier and its image processor wrote",
            ) from None
        name = f"hf:{local.name if local.is_dir() else place}"
        return Found(_Logits(core), name, shape, moments=moments, class_names=class_names)


def _check_sizes(told: Any, given: str, key: str = "") -> None:
    """Refuses a configuration by which building the net would not end. Raises BadModel."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            if name not in ("id2label", "label2id"):
                _check_sizes(value, given, str(name))
        return
    parts = told if isinstance(told, (list, tuple)) else (told,)
    sizes = [1, *(abs(each) for each in parts if isinstance(each, int))]
    repeated = bool(_REPEATED.search(key))
    asked = max(len(parts), sum(sizes) - 1 if repeated else max(sizes))
    if asked > (MOST_LAYERS if repeated else MOST_WIDE):
        raise BadModel(
            f"the configuration of {given} says {key} = {str(told)[:60]}, as no image classifier has",
            hint="give a folder that save_pretrained of an image classifier wrote",
        )
    for each in parts:
        if isinstance(each, (list, tuple, Mapping)):
            _check_sizes(each, given, key)


def _explained(place: str, error: Exception, *, local: bool, asked: Asked) -> BadModel:
    said = str(error)
    if "trust_remote_code" in said and not asked.trust_code:
        return BadModel(f"{place} brings code of its own", hint="read that code, and add --trust-code if it may run")
    if "safetensors" in said:
        hint = "its weights are a pickle, which is never read: save it again with safe_serialization"
    elif local or asked.download:
        hint = "give a folder that save_pretrained of an image classifier wrote"
    else:
        hint = "it may not be in the local cache: add --download to fetch it"
    return BadModel(f"{place} cannot be loaded: {type(error).__name__}: {said.partition(chr(10))[0]}", hint=hint)


def _shape(config: Any, told: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(C,H,W) by the image processor, else by the model's configuration."""
    size = told.get("crop_size" if told.get("do_center_crop") else "size") or getattr(config, "image_size", None)
    if isinstance(size, Mapping):
        sides = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    else:
        sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if not all(isinstance(side, int) for side in sides):
        return None
    return int(getattr(config, "num_channels", 3)), int(sides[0]), int(sides[1])


def _moments(told: Mapping[str, Any]) -> Moments | None:
    """What the processor does to 8-bit pixels, as a normalisation of images in [0,1]; None where it says nothing."""
    if not told:
        return None
    scale = 255 * float(told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1)
    offset = 1.0 if told.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if told.get("do_normalize", "image_mean" in told):
        mean, std = list(told["image_mean"]), list(told["image_std"])
    return Moments(tuple((each + offset) / scale for each in mean), tuple(each / scale for each in std))


def _names(labels: Mapping[Any, str]) -> tuple[str, ...]:
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return () if all(name == f"LABEL_{place}" for place, name in enumerate(names)) else names
