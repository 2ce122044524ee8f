"""The one place where something is unpickled: by torch, which makes nothing but tensors and plain containers of it."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch

from holdfast.foundation.errors import BadFile

SOUND = "2.10"
"""The first torch whose restricted unpickler is not known to be broken. Before: CVE-2025-32434 (code is run, to 2.5) and
CVE-2026-24747 (memory is overwritten, to 2.9)."""


def unpickled(given: Path | IO[bytes], *, where: str) -> Any:
    """What a file of ``torch.save`` holds, on the CPU. It raises whatever torch does where it is damaged, or asks for more.

    Raises:
        BadFile: this torch cannot be trusted with it.
    """
    if torch.__version__ < SOUND:
        raise BadFile(
            f"{where} holds a pickle, and torch {torch.__version__} has a fault by which a crafted one can run code "
            "(CVE-2026-24747)",
            hint=f"pip install 'torch>={SOUND}', or give the weights as safetensors",
        )
    return torch.load(given, map_location="cpu", weights_only=True)
