"""Libraries that only some users have: the error where one is missing, and no network unless the user says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.foundation.errors import BadFile


def missing(library: str, *, extra: str) -> BadFile:
    """The error for a library that cannot be imported."""
    return BadFile(f"{library} is needed to read this, and cannot be imported", hint=f"pip install 'holdfast[{extra}]'")


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Hugging Face's libraries ask no network within, where that is wanted, and behave as before afterwards."""
    import huggingface_hub.constants

    held: list[Any] = [huggingface_hub.constants]
    if "datasets.config" in sys.modules:  # which copies the setting when it is imported
        held.append(sys.modules["datasets.config"])
    before = [module.HF_HUB_OFFLINE for module in held]
    try:
        for module in held if wanted else ():
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, was in zip(held, before):
            module.HF_HUB_OFFLINE = was
