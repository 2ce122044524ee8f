"""Where to compute: the device that is asked for, if it is there, and what it is called."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import torch

from holdfast.foundation.errors import BadValue


def placed(given: torch.device | str) -> torch.device:
    """The device of that name; of ``auto`` CUDA, else MPS, else the CPU, whichever is there first.

    Raises:
        BadValue: it is not there; the hint says what is.
    """
    if given == "auto":
        given = next((kind for kind, there in (("cuda", _cuda()), ("mps", _mps())) if there), "cpu")
    try:
        place = torch.device(given)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if _mps() else [])]
        missing = str(given).startswith("cuda") and torch.version.cuda is None
        raise BadValue(
            f"the device is {str(given)!r}, which cannot be used here: {str(error).partition(chr(10))[0]}",
            hint=f"give {' or '.join(there)}" + ("; this PyTorch was built without CUDA" if missing else ""),
        ) from error
    if place.type == "cuda" and place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return place


def name_of(device: torch.device) -> str:
    """What the device is called: the GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cuda() -> bool:
    return torch.cuda.is_available()


def _mps() -> bool:
    return torch.backends.mps.is_available()
