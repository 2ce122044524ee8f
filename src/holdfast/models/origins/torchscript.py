"""TorchScript archives."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import ClassVar

import torch

from holdfast.foundation.errors import BadFile
from holdfast.foundation.registry import register
from holdfast.models.from_file import FromFile, checksum
from holdfast.models.origin import Asked, Found


@register
class TorchScript:
    """MODEL.ts or MODEL.pt of torch.jit.save, only with --trust-code: such a program may write files, already when loaded.

    Its objects are read by an unpickler of torch's C++ part, which knows the classes of TorchScript alone. But the language
    has operators that write files (``torch.save``), and an object's ``__setstate__`` runs while it is loaded.
    """

    written: ClassVar[str] = "MODEL.ts"
    weights: ClassVar[bool] = False
    publishes: ClassVar[bool] = False

    @staticmethod
    def recognises(given: str) -> bool:
        return given.endswith((".ts", ".pt", ".pth", ".torchscript"))

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        path = Path(given)
        if not path.is_file():
            raise BadFile(f"there is no file {given!r}", hint="check the path")
        if not _is_program(path):
            raise BadFile(
                f"{given} is no TorchScript program; it may be weights alone",
                hint=f"name the net they belong to: --model your_module:factory (or net:NAME) --weights {given}",
            )
        if not asked.trust_code:
            raise BadFile(
                f"{given} is a TorchScript program, which may write files as soon as it is loaded",
                hint="add --trust-code if you trust where it comes from; a .pt2 of torch.export needs no trust",
            )
        try:
            with warnings.catch_warnings():
                for category in (DeprecationWarning, FutureWarning):  # of torch.jit itself, by torch's version
                    warnings.simplefilter("ignore", category)
                module = torch.jit.load(str(path), map_location="cpu")
        except Exception as error:  # its interpreter raises whatever the program does
            raise BadFile(
                f"{given} cannot be loaded as TorchScript: {type(error).__name__}: {error}", hint="save it again"
            ) from error
        return Found(FromFile(module, checksum(path)), path.name)


def _is_program(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript's code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
