"""What an audit was measured on, and how its searches were made faster, as its folder says it."""

from __future__ import annotations

from holdfast.ascent.acceleration import Acceleration, Searched
from holdfast.ascent.compiled import Compiled
from holdfast.models.device import name_of
from holdfast.models.model import Model
from holdfast.records.schema import Finding, Measured, RunInfo


def asked(model: Model, acceleration: Acceleration) -> dict[str, str]:
    """What ``run.json`` says of it, before any work."""
    return {
        "device": name_of(model.device),
        "precision": acceleration.precision,
        "compile": acceleration.compile,
    }


def measured(model: Model, copies: Searched, slots: int) -> Measured:
    """What ``summary.json`` says of it: what was done, by the first process of the session that ended the run."""
    return Measured(
        device=name_of(model.device),
        dtype=model.info().dtype,
        precision=copies.given.precision,
        compile=copies.given.compile,
        slots=slots,
    )


def told(info: RunInfo, model: Model, copies: Searched, acceleration: Acceleration) -> tuple[Finding, ...]:
    """What was not done as it was asked for, what it cost, and whether the run went on in another way than it began."""
    found = [
        _note("not accelerated", reason, "the searches ran without it", "leave the option out")
        for reason in copies.reasons
    ]
    if isinstance(copies.quick, Compiled):
        rows, padding, plain = copies.quick.rows, copies.quick.padding, copies.quick.plain
        found.append(
            _note(
                "compiled",
                f"{rows:,} forwards were compiled, {padding:,} more were padding, {plain:,} came in too small batches",
                "padding is computed and not counted as evaluations",
                "choose --slots nearer to the number of samples that enter the later stages",
            )
        )
    now = asked(model, acceleration)
    if other := [key for key in now if info.versions.get(key, now[key]) != now[key]]:
        was, became = (", ".join(f"{key} {each[key]}" for key in other) for each in (info.versions, now))
        found.append(
            _note(
                "resumed otherwise",
                f"begun with {was}, ended with {became}",
                "where a search ends may differ; every point that counts was judged by the model in its own precision",
                "nothing to do; for one way throughout, audit into a new folder",
            )
        )
    return tuple(found)


def _note(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="note", saw=saw, means=means, remedy=remedy)
