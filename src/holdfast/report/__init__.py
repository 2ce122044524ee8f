"""Floor 5: a finished run, or several side by side, as one HTML file that opens offline."""

from __future__ import annotations

from holdfast.report.page import render

__all__ = ["render"]
