"""All parts in their order: a toy each, then the attacks on all of them against the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from holdfast.experiments.charts import figure
from holdfast.experiments.lab import share
from holdfast.experiments.outcome import Column, Outcome, Verdict, percent
from holdfast.experiments.theory import Part, Progress
from holdfast.experiments.toys.draw import beside, misses
from holdfast.experiments.toys.judged import ADVERSARIAL, STANDARD, Judged, attacks, judged
from holdfast.experiments.toys.points import TOYS, Toy
from holdfast.experiments.toys.settings import Toys
from holdfast.foundation.stats import mcnemar


def drawn(asked: Toys) -> list[Toy]:
    """The points of all toys. Raises BadValue where there is no room for them."""
    return [toy(asked) for toy in TOYS]


def run(asked: Toys, toys: Sequence[Toy], progress: Progress = lambda name, done, total: None) -> list[Part]:
    """Trains, judges and draws; seconds on one core.

    Args:
        asked: the settings; ``toys``: what `drawn` made of them.
        progress: told which toy is going on.
    """
    parts, every = [], []
    for place, toy in enumerate(toys):
        progress(toy.name, place, len(toys))
        pair = tuple(judged(asked, toy, training) for training in (STANDARD, ADVERSARIAL))
        parts.append(before_and_after(asked, *pair))
        every += pair
    progress("done", len(toys), len(toys))
    return [*parts, against_the_grid(asked, every)]


def before_and_after(asked: Toys, before: Judged, after: Judged) -> Part:
    """One toy: how many squares are safe without and with adversarial training."""
    toy, n = before.toy, len(before.right)
    safe = {each.training: ~each.truth.broken for each in (before, after)}
    gained, lost = (int((safe[a] & ~safe[b]).sum()) for a, b in ((ADVERSARIAL, STANDARD), (STANDARD, ADVERSARIAL)))
    paired = mcnemar(gained, lost, n=n).difference
    counts = {each.training: int(safe[each.training].sum()) for each in (before, after)}
    return Part(
        toy.name,
        f"Adversarial training leaves more squares of {toy.name} safe than standard training",
        Outcome(
            caption=f"{toy.stated}; seed {asked.seed}. Nets of {asked.depth} x {asked.hidden} units, "
            f"{asked.updates:,} updates, adversarial: on PGD-{asked.attack_steps} at eps. Robust by grid: no point of a "
            f"grid of {asked.grid} x {asked.grid} over the square, rim included, is misclassified. Proven: no point of the "
            "square is. By attacks: none of three fools it. Missed: squares that the grid breaks, and no attack. Largest "
            "loss: cross-entropy at the grid's worst points, mean. 95 % Wilson intervals.",
            columns=(
                Column("training"),
                Column("clean"),
                Column("robust by grid"),
                Column("proven robust"),
                Column("robust by attacks"),
                Column("missed"),
                Column("largest loss", "nats", 3),
            ),
            rows=tuple(
                (
                    each.training,
                    share(each.right),
                    share(~each.truth.broken),
                    share(each.truth.proven),
                    share(~each.fooled),
                    int((each.truth.broken & ~each.fooled).sum()),
                    float(F.softplus(-each.truth.margin).mean()),
                )
                for each in (before, after)
            ),
            chart=figure(beside((before, after), shown=asked.shown)),
            verdict=Verdict(
                paired.low > 0,
                f"by the grid {counts[STANDARD]} of {n} squares are safe after standard and {counts[ADVERSARIAL]} after "
                f"adversarial training, {percent(counts[STANDARD] / n)} and {percent(counts[ADVERSARIAL] / n)}, a "
                f"difference of {100 * paired.value:+.1f} points ({100 * paired.low:+.1f} to {100 * paired.high:+.1f}, "
                f"paired); clean accuracy {percent(share(before.right).value)} and {percent(share(after.right).value)}; no "
                f"classifier can leave more than {toy.ceiling} of them safe, {percent(toy.ceiling / n)}",
            ),
        ),
        tuple(before.breaches() + after.breaches()),
    )


def against_the_grid(asked: Toys, every: Sequence[Judged]) -> Part:
    """What each attack misses of what the grid breaks, and what it breaks beyond that."""
    names = list(attacks(asked))
    missed = {name: [int((each.truth.broken & ~each.attacks[name].fooled).sum()) for each in every] for name in names}
    beyond = {name: [int((~each.truth.broken & each.attacks[name].fooled).sum()) for each in every] for name in names}
    broken = [int(each.truth.broken.sum()) for each in every]
    open_ = [int((~each.truth.broken & ~each.truth.proven).sum()) for each in every]
    squares = sum(len(each.right) for each in every)
    told = "; ".join(
        f"{name} misses {sum(missed[name])} of them and breaks {sum(beyond[name])} others" for name in names
    )
    return Part(
        "attacks",
        f"PGD with {asked.restarts} starts breaks every square that the grid breaks",
        Outcome(
            caption=f"All nets on their judged points. Missed: broken by the grid of {asked.grid} x {asked.grid}, not by "
            "the attack. Beyond: broken by the attack between the points of the grid. Open: neither broken by the grid nor "
            "proven safe.",
            columns=tuple(
                map(Column, ("toy", "training", "attack", "points", "broken by grid", "missed", "beyond", "open"))
            ),
            rows=tuple(
                (
                    each.toy.name,
                    each.training,
                    name,
                    len(each.right),
                    broken[place],
                    missed[name][place],
                    beyond[name][place],
                    open_[place],
                )
                for place, each in enumerate(every)
                for name in names
            ),
            chart=figure(misses(missed, every)),
            verdict=Verdict(
                not sum(missed[names[1]]),
                f"the grid breaks {sum(broken):,} of {squares:,} squares; {told}; of the squares that the grid leaves safe "
                f"{squares - sum(broken) - sum(open_):,} are proven so, and {sum(open_):,} open",
            ),
        ),
    )
