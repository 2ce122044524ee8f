"""What the gradients' numbers say: tables, sentences, caveats."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.compare import difference, interval, median, number, sign
from holdfast.explain.found import Found, Table
from holdfast.explain.questions.gradients_figures import COMPARED, NOISE

WORDS = {1: "larger", -1: "smaller", 0: "no difference seen"}
AVERAGED = {
    "cosine": "cosine with minus the gradient",
    "object": COMPARED["object"],
    "gini": COMPARED["gini"],
    "error": "completeness error",
}
"""What is said of a map that averages gradients."""


def tables(found: Found, n: int) -> tuple[Table, ...]:
    """The numbers of every net and of noise, the model's paired differences from the others, and the maps that average."""
    words = found.words
    level, names = f"{100 * words['confidence']:.0f} %", {**COMPARED, "alpha": "alpha", "rho": "rho"}
    rows = [*words["nets"], NOISE]
    compared = [key for key in COMPARED if key in words["keys"]]
    area = words["area"]
    covered = "" if area is None else f" The object covers {100 * area:.1f} % of the pixels: the share by chance."
    made = [
        Table(
            f"{n} images, minus the gradient of the loss {words['loss']}; medians over images with {level} bootstrap "
            f"intervals.{covered} Stability: the cosine with the gradient at a random point within {words['shaken']} of the "
            "image. Noise stands in for a gradient.",
            _columns("net", *(names[key] for key in words["keys"])),
            tuple((net, *(_middle(found, f"{net}/{key}") for key in words["keys"])) for net in rows),
        ),
        Table(
            f"{rows[0]} minus another on the same image: medians of paired differences with {level} bootstrap intervals.",
            _columns(f"{rows[0]} minus", *(COMPARED[key] for key in compared)),
            tuple((net, *(_apart(found, net, key) for key in compared)) for net in rows[1:]),
        ),
    ]
    averaged = [name for name in words["maps"] if name != "gradient"]
    if averaged:
        keys = [key for key in AVERAGED if key != "object" or area is not None]
        cells: list[tuple[Cell, ...]] = [
            (name.replace("_", " "), net, *(_middle(found, f"{net}/{name}/{key}") for key in keys))
            for name in averaged
            for net in words["nets"]
        ]
        caption = (
            f"Maps that average gradients; medians with {level} bootstrap intervals. Completeness: by what share the sum of "
            "the integrated gradients misses the change of the loss from the black image."
        )
        made.append(Table(caption, _columns("map", "net", *(AVERAGED[key] for key in keys)), tuple(cells)))
    return tuple(made)


def sentences(found: Found) -> tuple[str, ...]:
    """For each headline number that of the model and its difference from every other row; and whether the two agree."""
    words, said = found.words, []
    ours, others = words["nets"][0], [*words["nets"][1:], NOISE]
    signs: dict[str, list[int]] = {name: [] for name in words["trained"][1:]}
    for key in ("object", "image"):
        own = _middle(found, f"{ours}/{key}")
        parts = []
        for name in others:
            apart = _apart(found, name, key)
            if apart.n:
                theirs = number(_middle(found, f"{name}/{key}").value)
                parts.append(f"{theirs} for {name} (difference {interval(apart)}: {WORDS[sign(apart)]})")
                if name in signs:
                    signs[name].append(sign(apart))
        if own.n:
            chance = f"; the object covers {number(words['area'])}" if key == "object" else ""
            said.append(f"{COMPARED[key].capitalize()}: {interval(own)} for {ours}; {', '.join(parts)}{chance}.")
    for name, both in signs.items():
        if len(both) == 2 and both[0] * both[1] < 0:
            said.append(
                f"The two disagree: the gradient of {ours} lies {'more' if both[0] > 0 else 'less'} on the object than that "
                f"of {name}, and its cosine with the image is {WORDS[both[1]]}."
            )
    return tuple(said)


def caveats(found: Found) -> tuple[str, ...]:
    from scipy.stats import spearmanr

    words, same = found.words, []
    for net in words["nets"]:
        alpha, rho = found.arrays[f"{net}/alpha"], found.arrays[f"{net}/rho"]
        whole = np.isfinite(alpha) & np.isfinite(rho)
        if whole.sum() > 2 and np.ptp(alpha[whole]) and np.ptp(rho[whole]):
            same.append(f"{float(spearmanr(alpha[whole], rho[whole])[0]):.2f} for {net}")
    said = [
        "alpha and rho (of the margin) are no independent evidence: in ReLU nets without biases they are the same number "
        f"(Euler's theorem){'; their rank correlation is ' + ', '.join(same) if same else ''}."
    ]
    said += [f"{net}: the gradient is exactly zero on {count} images." for net, count in words["zero"].items() if count]
    if "object" not in words["keys"]:
        said.append("No share on the object: these images have no plain dark background that tells it apart.")
    if "classes" not in words["keys"]:
        said.append("No cosine with the class difference: there are no known images of these classes (--train).")
    return tuple(said)


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


def _middle(found: Found, key: str) -> Estimate:
    return median(found.arrays[key], **_drawn_as(found))


def _apart(found: Found, net: str, key: str) -> Estimate:
    ours = found.arrays[f"{found.words['nets'][0]}/{key}"]
    return difference(ours, found.arrays[f"{net}/{key}"], **_drawn_as(found))


def _drawn_as(found: Found) -> dict[str, Any]:
    return {"seed": found.words["seed"], "confidence": found.words["confidence"]}
