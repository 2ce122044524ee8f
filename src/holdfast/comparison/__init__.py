"""Floor 5: finished runs paired image by image, and what changed between them."""

from __future__ import annotations

from holdfast.comparison.compare import compare

__all__ = ["compare"]
