"""Our attacks beside torchattacks, Foolbox, ART and adv-lib: the same model, images, budget and machine, in one run.

What is compared: strength (robust accuracy, or the median of the smallest distances), model evaluations, CPU seconds on one
thread. Which attacks, and with which settings, is the table in `peers/pairings.py`. What makes it fair:

- Every library gets the same images, radius, steps and step length, and a model whose parameters need no gradients (Foolbox
  would otherwise compute those too). Our engine chooses its own batch; each peer is tried with all images at once and in
  batches of 128, and measured with the faster.
- Every library is called the way its users call it, and all of that is timed: our clean pass, search copy and final
  judgement, Foolbox's own check of success.
- The points of all libraries are judged here, outside the clock: inside ball and box, and a fresh prediction of the
  model. An image that is misclassified unchanged counts as not robust for everybody. L0 counts pixels, not values.
- Evaluations, forwards and input gradients, are counted at the first layer with weights of whatever copy of the model is
  run, image by image, in a round of its own that is not timed.
- The timed rounds are interleaved (A B C, B C A, ...), round i has seed i in every library, and a ratio is formed
  within a round before the median is taken.

At the end stands where a peer wins: where it is stronger by more than twice the standard error over the rounds (in
distances by more than one percent, too), or takes less CPU time per evaluation (by more than five percent).

The peers are optional: without them the script prints our own figures. None is a dependency of holdfast. torchattacks 3.5.1
declares torchvision and an old requests and imports neither: install it without its dependencies. adv-lib 0.2.8 imports
torchvision and visdom, and needs neither here.

    python benchmarks/attacks_vs_peers.py [--only NAME ...] [--models NAME ...] [--rounds 7] [--n 500] [--reference DIR]
        [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from peers.libraries import installed
from peers.measuring import SLACK, counted, machine, measure
from peers.pairings import PAIRINGS, STEP_SHARE
from peers.subjects import RADII, digits, references

__all__ = ["RADII", "SLACK", "counted", "digits", "machine", "references"]

FARTHER, SLOWER = 0.01, 1.05
"""From which relative difference of median distances, and which ratio of CPU times, a peer wins."""


def lines(entry: dict[str, Any]) -> Iterator[str]:
    """The rows of the table for one model and attack."""
    for name, figures in entry["libraries"].items():
        strength, cpu = figures[entry["measure"]], figures["cpu_seconds"]
        scale = 100 if entry["measure"] == "robust_accuracy" else 1
        values = [
            f"{scale * strength[key]:.4g}" if strength[key] is not None else "none" for key in ("median", "min", "max")
        ]
        ratio = ""
        if name in entry["against"]:
            each, all_ = (entry["against"][name][key] for key in ("cpu_ratio_per_evaluation", "cpu_ratio"))
            ratio = f"{all_['median']:6.2f}   {each['median']:6.2f} ({each['min']:.2f}..{each['max']:.2f})"
        invalid = f"  {figures['invalid_points']} points outside!" if figures["invalid_points"] else ""
        between = f"({values[1]}..{values[2]})"
        spent = f"{figures['forwards_per_image']:8.1f}{figures['backwards_per_image']:8.1f}{cpu['median']:9.3f}"
        yield f"{entry['model']:20} {entry['attack']:26} {name:13}{values[0]:>8} {between:18}{spent}   {ratio}{invalid}"
    for name, error in entry["failed"].items():
        yield f"{entry['model']:20} {entry['attack']:26} {name:13} failed: {error.splitlines()[0][:80]}"


def losses(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Where a peer wins, line by line."""
    for entry in entries:
        for name, against in entry["against"].items():
            where = f"{entry['model']}, {entry['attack']}, {name}"
            behind, error = _mean(against["strength_difference"]["rounds"])
            if entry["measure"] == "robust_accuracy" and behind > 2 * error:
                yield f"{where}: robust accuracy lower by {100 * behind:.2f} +- {100 * error:.2f} points"
            if entry["measure"] == "median_distance" and behind > max(FARTHER, 2 * error):
                yield f"{where}: median distance smaller by {100 * behind:.1f} +- {100 * error:.1f} %"
            ratio = against["cpu_ratio_per_evaluation"]
            if ratio["median"] > SLOWER:
                both = f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})"
                yield f"{where}: CPU per evaluation, ours / theirs {both}; all in all {against['cpu_ratio']['median']:.2f}"


def _mean(values: list[float | None]) -> tuple[float, float]:
    """Mean and standard error; a value that is None (only the peer found anything) counts as infinitely far."""
    if None in values:
        return torch.inf, 0.0
    known = [value for value in values if value is not None]
    return statistics.mean(known), statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="attacks whose names begin so, in any case (default all)"
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models whose names begin so (default all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--n", type=int, default=500, help="images of each model, at most (default 500)")
    parser.add_argument("--reference", type=Path, help="folder of reference models, attacked as well")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    if given.rounds < 1 or given.n < 1:
        parser.error("--rounds and --n must be at least 1")
    if given.reference and not list(given.reference.glob("*.weights.safetensors")):
        parser.error(f"--reference: no *.weights.safetensors in {given.reference}")
    prefixes = tuple(name.lower() for name in given.only or [""])
    pairings = [pairing for pairing in PAIRINGS if pairing.name.lower().startswith(prefixes)]
    if not pairings:
        parser.error("--only: no attack of that name; there are " + ", ".join(dict.fromkeys(p.name for p in PAIRINGS)))
    torch.set_num_threads(1)
    found, missing = installed()
    where = machine()
    print(f"{where['cpu']}, 1 thread; " + ", ".join(f"{k} {v}" for k, v in where["versions"].items()))
    for line in missing:
        print(line)
    print(
        f"n <= {given.n}, {given.rounds} rounds: median (min..max); strength: robust accuracy in % or median distance;"
    )
    print(
        "f, b = forwards and input gradients per image; ratio = our CPU seconds / the peer's, formed within each round,"
    )
    print(
        f"all in all and per evaluation\n\n{'model':20} {'attack':26} {'library':13}{'strength':>8}{'f':>27}{'b':>8}",
        end="",
    )
    print(f"{'CPU s':>9}   {'ratio':>6}   per evaluation", flush=True)
    entries = []
    subjects = [*digits(given.n), *(references(given.reference, given.n) if given.reference else ())]
    chosen = [subject for subject in subjects if subject.name.startswith(tuple(given.models or [""]))]
    if not chosen:
        parser.error("--models: no model of that name; there are " + ", ".join(subject.name for subject in subjects))
    for subject in chosen:
        for pairing in pairings:
            if subject.again and pairing.minimal:
                continue
            entry = measure(subject, pairing, found, given.rounds)
            if entry:
                entries.append(entry)
                print("\n".join(lines(entry)), flush=True)
    lost = list(losses(entries))
    print("\nwhere a peer wins:\n" + ("\n".join(lost) or ("nowhere" if entries else "nothing was compared")))
    if given.out:
        settings = {"rounds": given.rounds, "n": given.n, "step_share": STEP_SHARE, "only": given.only}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "machine": where,
            "missing": missing,
            "settings": settings,
            "results": entries,
            "where_a_peer_wins": lost,
        }
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {given.out}")


if __name__ == "__main__":
    main()
