"""Images that a stage found, in a file of their own beside the lines: written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from holdfast.foundation.errors import BadFile
from holdfast.records.files import write_atomic


def write_points(file: Path, points: Mapping[str, Tensor]) -> None:
    """Writes tensors by name. Raises StorageError."""
    write_atomic(file, [save({name: value.cpu().contiguous() for name, value in points.items()})])


def read_points(file: Path) -> dict[str, Tensor]:
    """What `write_points` wrote, on the CPU. Raises BadFile."""
    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadFile(f"{file} cannot be read: {error}", hint="start again in a new folder") from None
