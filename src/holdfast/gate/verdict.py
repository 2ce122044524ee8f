"""What a gate says: every requirement beside its figure, the reasons to doubt the figures, and the exit code."""

from __future__ import annotations

from typing import Literal

from holdfast.foundation.errors import Unbelievable
from holdfast.records.schema import SCHEMA_VERSION, Finding, Frozen

Bound = Literal["value", "interval"]

BELOW = 1
"""The exit code of a run that misses a requirement."""


class Judged(Frozen):
    """One requirement, as it was ``asked``, and the figure of the run: shares and differences of shares, not per cent.

    ``what``: of a difference, the figure that differs.
    ``low`` and ``high``: its 95 % interval, None where it has none. ``met``: whether the bound that was asked for meets
    the requirement; ``clear``: whether the whole interval says the same.
    """

    asked: str
    what: str = ""
    value: float
    low: float | None
    high: float | None
    n: int
    met: bool
    clear: bool


class Verdict(Frozen):
    """The answer of a gate.

    ``bound``: whether figures themselves were judged, or the ends of their intervals on the unfavourable side. ``doubts``:
    warnings and errors of the run's own checks, and of the baseline's where a difference was asked for; ``accepted``: those
    that were declared acceptable.
    """

    schema_version: int = SCHEMA_VERSION
    run: str
    name: str
    baseline: str = ""
    bound: Bound
    judged: tuple[Judged, ...]
    doubts: tuple[Finding, ...]
    accepted: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """3 where the figures are not to be believed, whatever they say; else 1 where one misses; else 0."""
        if self.doubts:
            return Unbelievable.exit_code
        return 0 if all(each.met for each in self.judged) else BELOW

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        missed = sum(not each.met for each in self.judged)
        return {
            0: f"passed: {len(self.judged)} of {len(self.judged)} requirements are met",
            BELOW: f"failed: {missed} of {len(self.judged)} requirements are missed",
            Unbelievable.exit_code: "not to be believed: its own checks doubt the run",
        }[self.exit_code]
