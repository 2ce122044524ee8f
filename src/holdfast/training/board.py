"""TensorBoard: the same figures that the log has, for those who watch many trainings at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from holdfast.foundation.errors import BadValue
from holdfast.training.folder import EpochRecord
from holdfast.training.run import Watch
from holdfast.training.watchdog import ProbeRecord

FOLDER = "tensorboard"


def boarded(watch: Watch, out: Path) -> Watch:
    """``watch``, and event files in the folder of the training: ``held out/...`` by epoch, ``watchdog/...`` by step.

    Raises:
        BadValue: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadValue(
            f"TensorBoard was asked for and cannot be imported: {error}", hint="pip install 'holdfast[tensorboard]'"
        ) from None
    writer: Any = SummaryWriter(str(out / FOLDER))

    def probe(record: ProbeRecord) -> None:
        for name in ("loss", "clean", "single", "robust", "alignment", "eps"):
            writer.add_scalar(f"watchdog/{name}", getattr(record, name), record.step)
        writer.flush()
        watch.probe(record)

    def epoch(record: EpochRecord, epochs: int) -> None:
        for name in ("loss", "clean", "single", "robust"):
            writer.add_scalar(f"held out/{name}", getattr(record, name), record.epoch)
        writer.flush()
        watch.epoch(record, epochs)

    return dataclasses.replace(watch, probe=probe, epoch=epoch)
