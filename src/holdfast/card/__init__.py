"""Floor 5: what a model's owner publishes of a run: a model card, and a claim in the form of RobustBench."""

from __future__ import annotations
