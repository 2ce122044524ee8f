"""ONNX files, evaluated by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.foundation.errors import BadFile, BadModel
from holdfast.foundation.extras import missing
from holdfast.foundation.registry import register
from holdfast.models.fixed_batch import FixedBatch
from holdfast.models.from_file import FromFile, checksum
from holdfast.models.origin import Asked, Found

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class _Session(nn.Module):
    """An onnxruntime session as a module without gradients: it is asked on the CPU, whatever holds the images."""

    def __init__(self, session: Any, image: str, kind: type, logits: str) -> None:
        super().__init__()
        self.session, self.image, self.kind, self.logits = session, image, kind, logits

    def forward(self, images: Tensor) -> Tensor:
        given = images.detach().cpu().numpy().astype(self.kind, copy=False)
        (answer,) = self.session.run([self.logits], {self.image: np.ascontiguousarray(given)})
        return torch.from_numpy(np.array(answer)).to(images.device, images.dtype)


@register
class Onnx:
    """MODEL.onnx, through onnxruntime on the CPU. It has no gradients: black-box attacks alone (--plan black-box).

    Weights in other files are read from the model's own folder alone. Operators beyond ONNX's own are refused.
    """

    written: ClassVar[str] = "MODEL.onnx"
    weights: ClassVar[bool] = False
    publishes: ClassVar[bool] = False

    @staticmethod
    def recognises(given: str) -> bool:
        return given.endswith(".onnx")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        try:
            import onnx
            import onnxruntime
        except Exception as error:  # a broken installation may raise anything
            raise missing("onnx or onnxruntime", extra="onnx") from error
        path = Path(given)
        if not path.is_file():
            raise BadFile(f"there is no file {given!r}", hint="check the path")
        try:
            proto = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf raises kinds of its own
            raise _unread(path, error) from error
        files = [path, *_beside(path, proto)]
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises kinds of its own
            raise _unread(path, error) from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        wanted = [one for one in outputs if one.type in _TYPES]
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES or not wanted:
            takes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise BadModel(
                f"{given} takes {takes} and returns {', '.join(one.name for one in outputs)}",
                hint="export a classifier that takes one floating tensor of images (N,C,H,W) and returns logits",
            )
        module: nn.Module = _Session(session, inputs[0].name, _TYPES[inputs[0].type], wanted[0].name)
        batch, channels, height, width = (side if isinstance(side, int) else None for side in inputs[0].shape)
        module = FromFile(module if batch is None else FixedBatch(module, batch), checksum(*files))
        shape = (channels, height, width) if channels and height and width else None
        return Found(module, path.name, shape, differentiable=False)


def _beside(path: Path, proto: Any) -> list[Path]:
    """The files of weights that the model names, each a plain file in its own folder. Raises BadFile for another place."""
    import onnx

    names = {
        entry.value
        for tensor in _tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path.parent / name for name in sorted(names)]
    for name, file in zip(sorted(names), files):
        if (
            Path(name).is_absolute()
            or ".." in Path(name).parts
            or "\\" in name
            or not file.is_file()
            or file.is_symlink()
            or not file.resolve().is_relative_to(path.parent.resolve())
        ):
            raise BadFile(
                f"{path} takes weights from {name!r}, which is no plain file in its own folder",
                hint="put the model and its weights into one folder, as the export wrote them",
            )
    return files


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors anywhere in a model, those of its nodes' attributes and inner graphs included."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(one)


def _unread(path: Path, error: Exception) -> BadFile:
    return BadFile(
        f"{path} cannot be read as ONNX: {type(error).__name__}: {str(error).partition(chr(10))[0][:300]}",
        hint="copy or export it again; operators beyond ONNX's own are not supported",
    )
