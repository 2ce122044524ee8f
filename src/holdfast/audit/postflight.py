"""What a session found out about its own conditions: whether the model stayed what it was, whether memory sufficed."""

from __future__ import annotations

from torch import Tensor

from holdfast.ascent import engine
from holdfast.models.model import Model
from holdfast.records.schema import Finding


def changed(model: Model, x: Tensor, before: Tensor) -> tuple[Finding, ...]:
    """Whether the model answers images ``x`` (n, C, H, W) otherwise than ``before`` the session, logits (n, K)."""
    if not len(x):
        return ()
    again = engine.predict(model.module, x)
    spread = (before.amax(1) - before.amin(1)).clamp_min(1e-12)
    share = float(((again - before).abs().amax(1) > 1e-3 * spread).double().mean())
    if not share:
        return ()
    return (
        Finding(
            check="model changes",
            level="warning",
            saw=f"{share:.0%} of {len(again)} images are answered otherwise at the end of the run than at its beginning",
            means="the model adapts to what it is shown, so that no verdict can be repeated",
            remedy="freeze what it learns or counts while it is evaluated, then audit again",
        ),
    )


def cramped(intended: int, slots: int) -> tuple[Finding, ...]:
    """Whether memory sufficed for as many searches at once as were meant to run."""
    if slots == intended:
        return ()
    return (
        Finding(
            check="memory",
            level="note",
            saw=f"memory does not suffice for {intended} searches at once; the run went on with {slots}",
            means="nothing was lost: what did not fit was done again in smaller parts",
            remedy=f"give --slots {slots} to spare a next run the attempts",
        ),
    )
