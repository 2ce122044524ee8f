"""What an evaluation of a defence must show before its number is read: each check, whether it holds, and what was seen.

Sources: Athalye, Carlini and Wagner (ICML 2018), section 3.1; Carlini et al., "On evaluating adversarial robustness" (2019);
Tramer et al. (NeurIPS 2020); the checks of AutoAttack for models that draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.audit.defended.outcome import Lines, Step, paired
from holdfast.records.defended import BLACK_BOX, LARGE, Sanity
from holdfast.records.schema import CLEAN

LEAST = 0.1
"""Accuracy that a radius which leaves nothing of an image may leave."""


@dataclass(frozen=True)
class Seen:
    """Shares of right answers of every image, (n,): at oblivious points, at adaptive ones, of the undefended model."""

    lines: Lines
    oblivious: np.ndarray
    adaptive: np.ndarray
    core: np.ndarray
    steps: tuple[Step, ...]
    off: bool | None


def sane(seen: Seen) -> tuple[Sanity, ...]:
    """All checks, in the order in which they are shown."""
    return (
        _below_oblivious(seen),
        _not_above_the_model(seen),
        _budget_never_helps(seen),
        _flat(seen),
        _large_radius(seen),
        _black_box(seen),
        _off(seen),
    )


def _below_oblivious(seen: Seen) -> Sanity:
    """Where the model keeps as much by itself, an oblivious attack may be the best there is."""
    low, high = float(seen.adaptive.mean()), float(seen.oblivious.mean())
    apparent = paired(seen.oblivious - seen.core).low > 0
    holds = low < high or (low == high and not apparent)
    return Sanity(
        check="adaptive below oblivious",
        holds=holds,
        saw=f"{_percent(low)} right against the adaptive attack, {_percent(high)} against the oblivious one",
    )


def _not_above_the_model(seen: Seen) -> Sanity:
    found = paired(seen.adaptive - seen.core)
    points = [f"{100 * value:+.1f}" for value in (found.value, found.low, found.high)]
    saw = f"{points[0]} points against the undefended model ({points[1]} to {points[2]})"
    return Sanity(check="not above the undefended model", holds=found.low <= 0, saw=saw)


def _budget_never_helps(seen: Seen) -> Sanity:
    falls = [(step, step.fall, step.error) for step in seen.steps if step.fall is not None and step.error is not None]
    rose = [step.budget for step, fall, error in falls if fall < -2 * error]
    told = ", ".join(f"{_percent(step.accuracy.value)} at {step.budget}" for step in seen.steps)
    return Sanity(check="more budget never helps the defence", holds=not rose if falls else None, saw=told)


def _flat(seen: Seen) -> Sanity:
    last = seen.steps[-1]
    if last.fall is None or last.error is None:
        saw = f"{_percent(last.accuracy.value)} at the only budget"
    else:
        saw = f"the last budget took off {100 * last.fall:.1f} points, the standard error is {100 * last.error:.1f}"
    return Sanity(check="flat curve", holds=last.flat, saw=saw)


def _large_radius(seen: Seen) -> Sanity:
    line = seen.lines[LARGE, 0]
    right = (np.array(line.defended) == np.array(line.label)[:, None]).mean()
    saw = f"{_percent(float(right))} of {len(line.ids)} images right where half of the pixel range may change"
    return Sanity(check="large radius", holds=bool(right <= LEAST), saw=saw)


def _black_box(seen: Seen) -> Sanity:
    line = seen.lines[BLACK_BOX, 0]
    if not line.ids:
        return Sanity(check="black box", holds=None, saw="the gradients left no image to ask about")
    firsts = sorted(first for stage, first in seen.lines if stage == CLEAN)
    ids = {key: place for place, key in enumerate(key for first in firsts for key in seen.lines[CLEAN, first].ids)}
    asked = (np.array(line.defended) == np.array(line.label)[:, None]).mean(1)
    given = seen.adaptive[[ids[key] for key in line.ids]]
    found = paired(given - asked)
    saw = f"on {len(line.ids)} images that stood, {_percent(float(asked.mean()))} right after questions alone, "
    saw += f"{_percent(float(given.mean()))} after gradients"
    return Sanity(check="black box", holds=found.low <= 0, saw=saw)


def _off(seen: Seen) -> Sanity:
    if seen.off is None:
        return Sanity(check="without its strength it is the model", holds=None, saw="the defence has no such setting")
    saw = "the same logits to the last bit" if seen.off else "other logits than the model's"
    return Sanity(check="without its strength it is the model", holds=seen.off, saw=saw)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
