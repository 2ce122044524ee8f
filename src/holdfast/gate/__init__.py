"""Floor 5: whether a finished run is good enough, for a machine that has to decide."""

from __future__ import annotations

from holdfast.gate.judge import judge
from holdfast.gate.verdict import Verdict

__all__ = ["Verdict", "judge"]
