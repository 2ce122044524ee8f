"""What the large radii showed: tables, sentences, caveats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.case import NORMS
from holdfast.explain.compare import difference, interval, median, number, share, sign
from holdfast.explain.found import Found, Table
from holdfast.foundation.stats import Interval, mcnemar


class Flips(NamedTuple):
    """At one radius, (n,) each: the images that are right at first and then of the class that was searched for, or of any
    other; and whether the judge gives them their new class, the true one, or the new one at noise. None without a judge."""

    flipped: np.ndarray
    confirmed: np.ndarray | None
    true: np.ndarray | None
    chance: np.ndarray | None


def flips(found: Found, net: str, norm: str, place: int) -> Flips:
    arrays, y = found.arrays, found.arrays["y"]
    new = arrays[f"{net}/{norm}/class"][:, place]
    flipped = arrays[f"{net}/right"] & (new == arrays["target"] if "target" in arrays else new != y)
    if f"{net}/{norm}/judged" not in arrays:
        return Flips(flipped, None, None, None)
    judged, noisy = (arrays[f"{net}/{norm}/{key}"][:, place] for key in ("judged", "judged noise"))
    return Flips(flipped, judged == new, judged == y, noisy == new)


def distances(arrays: Mapping[str, Any], net: str, norm: str) -> np.ndarray:
    """Of the images that the net gets right, (n,); NaN elsewhere, and where nothing was found."""
    return np.where(arrays[f"{net}/right"], arrays[f"{net}/{norm}/distance"], np.nan)


def tables(found: Found) -> tuple[Table, ...]:
    """How robust the nets are, and what became of the images at each radius."""
    arrays, words = found.arrays, found.words
    level = f"{100 * words['confidence']:.0f} %"
    per_net = tuple(
        (
            net,
            _share(found, arrays[f"{net}/right"]),
            *(_middle(found, distances(arrays, net, norm)) for norm in words["norms"]),
            *(_middle(found, arrays[f"{net}/{key}"]) for key in ("switch", "switches")),
        )
        for net in words["nets"]
    )
    rows: list[tuple[Cell, ...]] = []
    for norm in words["norms"]:
        for place, radius in enumerate(arrays[f"radii/{norm}"].tolist()):
            for net in words["nets"]:
                right, (flipped, *judged) = arrays[f"{net}/right"], flips(found, net, norm, place)
                noisy = arrays[f"{net}/{norm}/noise"][:, place] != arrays["y"]
                cells = [_share(found, flipped[right]), _share(found, noisy[right])]
                if words["judge"]:
                    cells += ["none" if each is None else _share(found, each[flipped]) for each in judged]
                rows.append((f"{NORMS[norm]} {number(radius)}", net, *cells))
    heads = ["flipped", "flipped by noise"]
    heads += ["confirmed", "true class confirmed", "confirmed at noise"] if words["judge"] else []
    asked = (
        f" Of the flipped ones: whether {words['judge']} give the new class, the true one, or the new one to noise of that "
        "radius, which is the share by chance."
        if words["judge"]
        else ""
    )
    aim = (
        "the class that the model finds second most likely" if "target" in arrays else f"a high loss ({words['loss']})"
    )
    return (
        Table(
            f"{len(arrays['y'])} images; medians over those that the net gets right, with {level} bootstrap intervals. "
            f"Distance: of the nearest misclassified point found, by FMN or an ascent. Switch: at which share of the way to "
            f"{_radius(found, words['norms'][0])} the class first changes; switches: how often.",
            (
                Column("net"),
                Column("right", "%"),
                *(Column(f"distance, {NORMS[norm]}") for norm in words["norms"]),
                Column("switch"),
                Column("switches"),
            ),
            per_net,
        ),
        Table(
            f"Ascents of {words['steps']} steps from the image to {aim}. Shares of the images that the net gets right, with "
            f"{level} intervals.{asked}",
            (Column("radius"), Column("net"), *(Column(name, "%") for name in heads)),
            tuple(rows),
        ),
    )


def sentences(found: Found) -> tuple[str, ...]:
    """At the middle radius of each norm: how often new classes are confirmed, beside noise and beside the twins."""
    arrays, words, said = found.arrays, found.words, []
    model, *twins = words["trained"]
    for norm in words["norms"]:
        place = len(arrays[f"radii/{norm}"]) // 2
        radius = _radius(found, norm, place)
        seen = {net: flips(found, net, norm, place) for net in words["trained"]}
        for net, (flipped, confirmed, _, chance) in seen.items():
            if confirmed is not None and chance is not None and flipped.any():
                said.append(
                    f"{radius}, {net}: {words['judge']} confirm the new class of {_percent(found, confirmed[flipped])} of "
                    f"{int(flipped.sum())} flipped images, and at noise of {_percent(found, chance[flipped])}."
                )
        for twin in twins:
            both = seen[model].flipped & seen[twin].flipped
            ours, theirs = seen[model].confirmed, seen[twin].confirmed
            if ours is not None and theirs is not None and both.any():
                only = [int((one & ~other & both).sum()) for one, other in ((ours, theirs), (theirs, ours))]
                pair = mcnemar(*only, n=int(both.sum()), confidence=words["confidence"]).difference
                word = {1: "confirmed more often than", -1: "confirmed less often than", 0: "not seen to differ from"}
                said.append(
                    f"{radius}, {int(both.sum())} images that flip on both: those of {model} are {word[sign(pair)]} those "
                    f"of {twin}, a difference of {interval(pair, percent=True)}."
                )
    way, own = _radius(found, words["norms"][0]), _middle(found, arrays[f"{model}/switch"])
    if own.n:
        said.append(f"On the way to {way} the class switches at {interval(own)} of it on {model}.")
    for twin in twins:
        apart = difference(arrays[f"{model}/switch"], arrays[f"{twin}/switch"], **_drawn_as(found))
        if apart.n:
            word = {1: "later than", -1: "earlier than", 0: "at no other place, as far as is seen, than"}[sign(apart)]
            said.append(f"On {model} it switches {word} on {twin}: a difference of {interval(apart)} of the way.")
    return tuple(said)


def caveats(found: Found) -> tuple[str, ...]:
    arrays, words, said = found.arrays, found.words, []
    if words["judge"]:
        said.append(f"Of the clean images, {words['judge']} name {words['judges rightly']} rightly.")
    for net in words["nets"]:
        for norm in words["norms"]:
            stood = arrays[f"{net}/right"] & (arrays[f"{net}/{norm}/class"][:, -1] == arrays["y"])
            missed = int((stood & (arrays[f"{net}/{norm}/distance"] <= arrays[f"radii/{norm}"][-1])).sum())
            if missed and "target" not in arrays:
                said.append(
                    f"{net}: the ascent to {_radius(found, norm)} leaves {missed} images right though a nearer "
                    f"misclassified point was found: the gradient of {words['loss']} misleads it (see the setting loss)."
                )
    return tuple(said)


def _radius(found: Found, norm: str, place: int = -1) -> str:
    return f"{NORMS[norm]} {number(float(found.arrays[f'radii/{norm}'][place]))}"


def _share(found: Found, truths: np.ndarray) -> Interval | str:
    return share(truths, confidence=found.words["confidence"]) if len(truths) else "none"


def _percent(found: Found, truths: np.ndarray) -> str:
    return interval(share(truths, confidence=found.words["confidence"]), percent=True)


def _middle(found: Found, values: np.ndarray) -> Estimate:
    return median(values, **_drawn_as(found))


def _drawn_as(found: Found) -> dict[str, Any]:
    return {"seed": found.words["seed"], "confidence": found.words["confidence"]}
