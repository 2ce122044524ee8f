"""Archives of ``torch.export``."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.foundation.errors import BadFile, BadModel
from holdfast.foundation.registry import register
from holdfast.models import archive
from holdfast.models.fixed_batch import FixedBatch
from holdfast.models.origin import Asked, Found
from holdfast.models.program import DTYPES, Program
from holdfast.models.unpickled import unpickled

_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
_PLAIN = (
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
    ".data/alignment",
)
_PAYLOADS = ("data/weights/weight_", "data/constants/tensor_")
_AGAIN = "export it again: torch.export.save(torch.export.export(model, (images,)), path), with torch 2.9 or newer"


@register
class Pt2:
    """MODEL.pt2: what torch.export.save of torch 2.9 or newer writes, run operator by operator; nothing in it is trusted.

    Weights are read as raw numbers and the graph as JSON. An archive that holds anything that torch would unpickle (weights,
    constants or objects saved by pickle), native code, or an operator beyond ATen is refused. The sample inputs, which torch
    always pickles, have to be plain tensors, and are not used.
    """

    written: ClassVar[str] = "MODEL.pt2"
    weights: ClassVar[bool] = False
    publishes: ClassVar[bool] = False

    @staticmethod
    def recognises(given: str) -> bool:
        return given.endswith(".pt2")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        path = Path(given)
        listed = archive.members(path)
        for name in listed:
            _check_member(path, name)
        held = archive.read(path, listed, [_PROGRAM, *(folder + config for folder, config in _CONFIGS.items())])
        if _SAMPLES in listed:
            _check_samples(path, archive.read(path, listed, [_SAMPLES])[_SAMPLES])
        state: dict[str, Tensor] = {}
        for folder, config in _CONFIGS.items():
            try:
                payloads = json.loads(held[folder + config])["config"]
                wanted = {folder + told["path_name"] for told in payloads.values() if not told["use_pickle"]}
                pickled = [name for name, told in payloads.items() if told["use_pickle"]]
                if pickled:
                    raise _pickle(path, f"{pickled[0]!r} as a pickle")
                read = archive.read(path, listed, wanted)
                state |= {name: _tensor(told["tensor_meta"], read[folder + told["path_name"]])
                          for name, told in payloads.items()}  # fmt: skip
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
                raise BadFile(
                    f"the weights in {path} are not understood ({type(error).__name__}: {error})", hint=_AGAIN
                ) from None
        program = Program(held[_PROGRAM], state, where=str(path))
        if len(program.shape) != 4:
            raise BadModel(f"{path} takes a tensor of shape {program.shape}", hint="export a classifier of images")
        batch, *image = program.shape
        shape = None if None in image else (image[0], image[1], image[2])
        return Found(program if batch is None else FixedBatch(program, batch), path.name, shape)


def _check_member(path: Path, name: str) -> None:
    """Refuses every member that is not one of those that plain tensors and a graph need."""
    if name in (_PROGRAM, _SAMPLES, *_PLAIN) or name in {folder + config for folder, config in _CONFIGS.items()}:
        return
    if name.startswith(_PAYLOADS) or name.startswith("extra/"):
        return
    if name.startswith("data/aotinductor/"):
        raise BadFile(f"{path} holds native code ({name}), which would run as it stands, and is refused", hint=_AGAIN)
    if name.startswith(("data/", "serialized_")) and not name.endswith(".json"):
        raise _pickle(path, name)
    raise BadFile(f"{path} holds {name[:100]!r}, which torch.export.save does not write; it is refused", hint=_AGAIN)


def _pickle(path: Path, what: str) -> BadFile:
    return BadFile(f"{path} holds {what}, a pickle, which can run code when it is read, and is refused", hint=_AGAIN)


def _check_samples(path: Path, data: bytearray) -> None:
    """Refuses sample inputs that are more than plain tensors: torch's own loader would run what they hold."""
    try:
        unpickled(io.BytesIO(data), where=str(path))
    except BadFile:
        raise
    except Exception:  # torch raises many kinds for what it does not read
        raise _pickle(path, "sample inputs that are more than tensors") from None


def _tensor(told: Any, data: bytearray) -> Tensor:
    """The tensor that a payload holds, of the size, strides and offset that are told of it."""
    dtype = DTYPES[told["dtype"]]
    size, stride = ([one["as_int"] for one in told[key]] for key in ("sizes", "strides"))
    if math.prod(size) * dtype.itemsize > len(data) or len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for a tensor of shape {size}")
    if not data:
        return torch.zeros(size, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).as_strided(size, stride, told["storage_offset"]["as_int"])
