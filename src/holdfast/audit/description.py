"""What a run is, as its folder will say it: of which model, on which images, by what, with which versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from holdfast import __version__
from holdfast.ascent.acceleration import Acceleration
from holdfast.audit.measured import asked
from holdfast.audit.plan import Plan
from holdfast.audit.preflight import Preflight
from holdfast.data.source import Source
from holdfast.models.model import Model
from holdfast.records.schema import DataInfo, RunInfo
from holdfast.threats.threat import Threat


def describe(
    model: Model,
    source: Source,
    *,
    threat: Threat,
    curve: Sequence[float],
    plan: Plan,
    seed: int,
    preflight: Preflight,
    name: str,
    acceleration: Acceleration = Acceleration(),  # noqa: B008 - frozen
    command: str = "",
    request: dict[str, Any] | None = None,
) -> RunInfo:
    """The run as it will be written."""
    return RunInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        plan=plan.name,
        stages=tuple(stage.info() for stage in plan.stages),
        draws=plan.draws,
        threat=threat.name,
        eps=threat.eps,
        curve=tuple(sorted({*curve, threat.eps})),
        seed=seed,
        model=model.info(),
        data=data_info(source),
        findings=preflight.findings,
        checks=preflight.evaluations,
        versions={**versions(), "threads": str(torch.get_num_threads()), **asked(model, acceleration)},
        command=command,
        request=request or {},
    )


def data_info(source: Source) -> DataInfo:
    """What a run writes about the images."""
    return DataInfo(
        name=source.name,
        fingerprint=source.fingerprint(),
        n=len(source),
        shape=source.shape,
        class_names=source.class_names,
    )


def versions() -> dict[str, str]:
    """What the answers depend on besides the model and the data."""
    return {
        "holdfast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
