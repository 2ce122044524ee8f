"""The copy of a model that something keeps to work on."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch

from holdfast.ascent.frozen import frozen
from holdfast.foundation.errors import BadModel

T = TypeVar("T")


@torch.inference_mode(False)
def copied(module: T) -> T:
    """``module`` copied: in evaluation mode, and no parameter of it asks for a gradient.

    Raises:
        BadModel: it cannot be copied.
    """
    try:
        with frozen(module):
            return copy.deepcopy(module)
    except Exception as error:  # a foreign __deepcopy__ may raise anything
        raise BadModel(
            f"the model cannot be copied, and the one that is given is never changed: {type(error).__name__}: {error}",
            hint="give a module that copy.deepcopy can copy, without hooks that hold tensors of a graph",
        ) from error
