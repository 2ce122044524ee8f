"""Work on rows that do not depend on one another: in halves where a batch does not fit into memory, or where a row fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from holdfast.foundation.errors import BadData, BadFile, BadModel, HoldfastError

T = TypeVar("T")

_EXHAUSTED = ("can't allocate memory", "ALLOC_FAILED")
"""What the CPU's allocator, and cuDNN and cuBLAS, say in a plain RuntimeError."""


@dataclass(frozen=True)
class Tried(Generic[T]):
    """What the parts gave, in the order of the rows; and how many rows fit at once, as far as is known by now."""

    parts: list[T]
    most: int


def halves(
    work: Callable[[slice], T], count: int, most: int, failed: Callable[[int, Exception], None] | None = None
) -> Tried[T]:
    """Does ``work`` on ``count`` rows, at most ``most`` at once.

    A batch that does not fit into memory is done in halves, and all after it in parts that are no larger. A batch that
    raises something else is done in halves, too, until the row that fails is alone; it is left out.

    Args:
        work: called with some of the rows; done again on a part where it failed on the whole.
        failed: called with the place of a row that fails alone, and what it raised; what this raises ends the work. None:
            the first error that is not for want of memory ends it.

    Raises:
        BadModel: a single row does not fit into memory.
        HoldfastError: ``work`` raised one that is not about the data, at once.
    """
    parts: list[T] = []
    left = [slice(0, count)] if count else []
    while left:
        at = left.pop()
        if at.stop - at.start > most:
            left += [slice(start, min(start + most, at.stop)) for start in range(at.start, at.stop, most)][::-1]
            continue
        half = (at.stop - at.start + 1) // 2
        try:
            parts.append(work(at))
            continue
        except Exception as error:  # a foreign forward may raise anything
            if short_of_memory(error):
                if at.stop - at.start == 1:
                    raise BadModel(
                        f"a single image does not fit into memory ({told(error)})",
                        hint="use a smaller model or smaller images, free memory, or choose another --device",
                    ) from error
                most = half
            elif failed is None or (isinstance(error, HoldfastError) and not isinstance(error, (BadData, BadFile))):
                raise
            elif at.stop - at.start == 1:
                failed(at.start, error)
                continue
        # Outside the handler: its exception holds on to the tensors of the frames that it passed.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        left += [slice(at.start + half, at.stop), slice(at.start, at.start + half)]
    return Tried(parts, most)


def short_of_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")[:300]
