"""The exceptions that holdfast raises on purpose.

::

    HoldfastError                exit code 2   every error below: what was given, what is allowed, what to do next
    ├── UnknownName              exit code 2   a name that no registry entry, option or key carries
    ├── BadValue                 exit code 2   an argument whose value is not allowed
    ├── BadFile                  exit code 2   a file that is missing, truncated, of another kind, or unsafe to read
    ├── BadData                  exit code 2   images or labels that cannot be evaluated
    ├── BadModel                 exit code 2   a classifier that cannot be evaluated as it stands
    ├── PlanMismatch             exit code 2   an output folder that holds another run
    ├── StorageError             exit code 2   a disk that is full or a folder that cannot be written
    ├── Unbelievable             exit code 3   a number that was computed and must not be believed
    └── Incomplete               exit code 4   a run that stopped before its end and can be resumed

A gate that is not met ends with exit code 1 and is no exception: it is an answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HoldfastError(Exception):
    """An error that a user can act on.

    Args:
        message: what was given and what is allowed, in one sentence.
        hint: what to do next, in one sentence. Never empty.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}"

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling, and worker processes need it
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[HoldfastError], message: str, hint: str) -> HoldfastError:
    return kind(message, hint=hint)


class UnknownName(HoldfastError):
    """A name that nothing carries."""

    @classmethod
    def among(cls, what: str, given: str, allowed: Iterable[str]) -> UnknownName:
        """The error for ``given`` where only ``allowed`` would do, with the nearest allowed names as the hint."""
        names = sorted(allowed)
        near = difflib.get_close_matches(given.lower(), names, n=3, cutoff=0.5)
        every = ", ".join(names)
        hint = f"did you mean {' or '.join(near)}? All: {every}" if near else f"choose one of: {every}"
        return cls(f"unknown {what} {given!r}", hint=hint)


class BadValue(HoldfastError):
    """An argument whose value is not allowed."""


class BadFile(HoldfastError):
    """A file that is missing, truncated, of another kind than its name says, or unsafe to read."""


class BadData(HoldfastError):
    """Images or labels that cannot be evaluated."""


class BadModel(HoldfastError):
    """A classifier that cannot be evaluated as it stands."""


class PlanMismatch(HoldfastError):
    """An output folder that holds the records of another run."""


class StorageError(HoldfastError):
    """A disk that is full, or a folder that cannot be written."""


class Unbelievable(HoldfastError):
    """A number that was computed and must not be believed."""

    exit_code = 3


class Incomplete(HoldfastError):
    """A run that stopped before its end; what is finished is kept and the run can be resumed."""

    exit_code = 4
