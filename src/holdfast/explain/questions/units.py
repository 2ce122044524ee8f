"""Units against random directions: does a natural unit of a layer mean more than any other direction?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.ascent.engine import default_slots
from holdfast.attacks.options import at_least_one
from holdfast.data.source import subset
from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.case import Case, Net
from holdfast.explain.compare import interval, mean, number
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.units_figures import BASES, figures, small
from holdfast.foundation.errors import BadModel, BadValue, UnknownName
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.probes import activations as layers
from holdfast.probes import directions as along
from holdfast.probes.directions import EQUAL, Chance, Rotation

SHOWN = 3
"""Units, and random directions, of each net whose top images are drawn."""
WORDS = {
    "equal": "equal, within 0.1",
    "purer": "units are purer",
    "less pure": "units are less pure",
    "not told apart": "neither a difference nor equality is shown",
}


@dataclass(frozen=True)
class _Seen:
    """Of one net: its layer, how many units live, purity and entropy of every direction, the tests, what is drawn."""

    layer: str
    width: int
    alive: int
    purity: dict[str, np.ndarray]
    entropy: dict[str, np.ndarray]
    rotation: Rotation
    effect: Interval
    p: float
    shown: tuple[str, ...]
    top: np.ndarray
    excited: np.ndarray

    @property
    def verdict(self) -> str:
        low, high = self.effect.low, self.effect.high
        if EQUAL[0] <= low and high <= EQUAL[1]:
            return "equal"
        return "purer" if low > 0.5 else "less pure" if high < 0.5 else "not told apart"


@register
@dataclass(frozen=True, kw_only=True)
class Units(Probe):
    """How often the images that excite a unit of a layer most share a label, against those of other directions.

    These are random, whitened and principal directions; and the natural basis is held against rotations of the layer.
    Takes the known images, up to ``pool`` of them; the images under test only where there are no known ones.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 3. Departures: they show
    pictures; here labels are counted, with tests and controls (see `holdfast.probes.directions`).

    Args:
        layer: the name of a module, the units being all values that it returns; unless given, what enters the last layer
            that has weights. A wrong name lists the names.
        k: how many top images of each direction are looked at.
        pool: how many known images are looked through.
        width: the most living units of a layer that are looked at; of more, so many are drawn at random and stand for it.
        directions: random ones, and whitened ones.
        rotations: of the whole basis.
        steps: of an ascent in pixels that excites each of the directions shown; 0 for none.
    """

    question: ClassVar[str] = "Do single units of a layer mean more than random directions of it?"

    images: int = 200
    layer: str | None = None
    k: int = 16
    pool: int = 2000
    width: int = 256
    directions: int = 500
    rotations: int = 200
    steps: int = 60

    def __post_init__(self) -> None:
        for name in ("k", "pool", "width", "directions", "rotations"):
            at_least_one(name, getattr(self, name))
        if self.steps < 0:
            raise BadValue(f"steps is {self.steps}; it must not be negative", hint="give 0 for no ascent")

    def effort(self, case: Case, n: int) -> Effort:
        pool = n if case.known is None else min(self.pool, len(case.known))
        gradients = self.steps * 2 * SHOWN * len(case.nets)
        return Effort((pool + 1) * len(case.nets) + gradients, gradients)

    def ask(self, case: Case, step: Step) -> Found:
        source = case.source if case.known is None else subset(case.known, self.pool, case.seed)
        # In an order of their own: among equal activations it must not be the order of the classes that decides.
        order = np.random.default_rng(case.seed).permutation(len(source))
        labels = source.take(source.ids).labels[order]
        classes, k = len(source.class_names), min(self.k, max(1, len(source) // 4))
        chance = along.by_chance(labels, k, classes)
        places = {net.name: self._place(net) for net in case.nets}
        seen: dict[str, _Seen] = {}
        refused: dict[str, str] = {}
        for done, net in enumerate(case.nets):
            step("units of nets", done, len(case.nets))
            place = places[net.name]
            if isinstance(place, str):
                refused[net.name] = place
                continue
            x = case.batch(net, source).x[torch.from_numpy(order).to(net.model.device)]
            found = self._seen(case, net, place, x, labels, classes, k)
            if isinstance(found, str):
                refused[net.name] = found
            else:
                seen[net.name] = found
        caveats = [
            "Intervals take directions as independent draws, which units of one layer are not; p values are not adjusted "
            "for the number of nets.",
            "A shared label is one kind of meaning; directions may stand for strokes or textures that labels do not count.",
        ]
        if case.known is None:
            caveats.append("There were no known images: the images under test were looked through.")
        if k < self.k:
            caveats.append(f"There are only {len(source)} images: the top {k} were looked at, not the top {self.k}.")
        return Found(
            tuple(self._tables(case, seen, refused, chance, len(source), k)),
            tuple(_said(case, seen, refused, chance)),
            caveats=tuple(caveats),
            breaches=tuple(f"{name}: {why}" for name, why in refused.items() if why.startswith("no unit")),
            arrays={f"{name}/{key}": value for name, each in seen.items() for key, value in _arrays(each).items()},
            words={
                "nets": list(seen),
                "shown": {name: list(each.shown) for name, each in seen.items()},
                "layers": {name: each.layer for name, each in seen.items()},
                "k": k,
                "chance": chance.purity,
            },
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return figures(found)

    def _place(self, net: Net) -> layers.Place | str:
        """The net's layer; or, in words, why there is none. Raises UnknownName where it is the model that lacks it."""
        if not isinstance(net.model.module, nn.Module):
            return "a plain function has no layers"
        try:
            x = torch.zeros(1, *net.model.shape, dtype=net.model.dtype, device=net.model.device)
            return layers.place(net.model.module, x, self.layer)
        except (BadModel, UnknownName) as error:
            if isinstance(error, UnknownName) and net.role == "model":
                raise
            return error.message

    def _seen(
        self, case: Case, net: Net, place: layers.Place, x: Tensor, labels: np.ndarray, classes: int, k: int
    ) -> _Seen | str:
        """What one net's layer shows; or, in words, why nothing."""
        from scipy.stats import mannwhitneyu

        module = net.model.module
        assert isinstance(module, nn.Module)
        try:
            with layers.tapped(module, place) as read, torch.no_grad():
                parts = [(module(part), read().float().cpu())[1] for part in x.split(default_slots(x))]
        except BadModel as error:
            return error.message
        values = torch.cat(parts).numpy()
        if not np.isfinite(values).all():
            return f"no unit can be looked at: {place} is not finite"
        living = np.flatnonzero(np.ptp(values, axis=0) > 0)
        if not len(living):
            return f"no unit tells any two images apart: {place} is constant"
        draws = np.random.default_rng(case.seed)
        kept = np.sort(draws.permutation(living)[: self.width])
        # Shifted to mean 0, which changes no order, so that float32 keeps the digits that matter.
        activations = values[:, kept] - values[:, kept].mean(0)
        sets = {
            "units": np.eye(len(kept)),
            "random": along.isotropic(len(kept), self.directions, draws),
            "whitened": along.whitened(activations, self.directions, draws),
            "PCA": along.principal(activations),
        }
        tops = {name: along.top(each.astype(np.float32), activations, k) for name, each in sets.items()}
        purity = {name: along.purity(labels[each]) for name, each in tops.items()}
        some = draws.permutation(len(kept))[:SHOWN]
        drawn = np.concatenate([tops["units"][some], tops["random"][:SHOWN]])
        top = small(x[torch.from_numpy(drawn.flatten()).to(x.device)])
        excited = top[:0]
        if self.steps:
            vectors, start = torch.zeros(len(drawn), values.shape[1]).to(x), x.mean(0)
            chosen = np.concatenate([sets["units"][some], sets["random"][:SHOWN]])
            vectors[:, kept] = torch.from_numpy(chosen).to(x)
            found = layers.exciting(module, place, vectors, start, steps=self.steps, seed=case.seed)
            excited = small(torch.cat([start[None], found]))
        return _Seen(
            layer=str(place),
            width=values.shape[1],
            alive=len(living),
            purity={**purity, "shown": along.purity(labels[drawn])},
            entropy={name: along.entropy(labels[each], classes) for name, each in tops.items()},
            rotation=along.rotation_test(activations, labels, k, rotations=self.rotations, seed=case.seed),
            effect=along.effect(purity["units"], purity["random"], seed=case.seed, confidence=case.confidence),
            p=float(mannwhitneyu(purity["units"], purity["random"]).pvalue),
            shown=(*(f"unit {kept[one]}" for one in some), *(f"random {one + 1}" for one in range(SHOWN))),
            top=top.reshape(len(drawn), k, *top.shape[1:]),
            excited=excited,
        )

    def _tables(
        self, case: Case, seen: dict[str, _Seen], refused: dict[str, str], chance: Chance, total: int, k: int
    ) -> Iterator[Table]:
        known = "known images" if case.known is not None else "images under test"
        of = f"{total} {known}, the {k} that excite each direction most. Layer: {_layers(seen)}. "
        bases = ("units", "random directions", "whitened", "PCA", "by chance")

        def made(caption: str, heads: tuple[str, ...], cells: Callable[[_Seen], tuple[Cell, ...]]) -> Table:
            none = [""] * (len(heads) - 1)
            rows = [
                (net.name, *(cells(seen[net.name]) if net.name in seen else (refused[net.name], *none)))
                for net in case.nets
            ]
            return Table(of + caption, tuple(Column(head, digits=3) for head in ("net", *heads)), tuple(rows))

        def means(each: dict[str, np.ndarray], by_chance: float) -> tuple[Cell, ...]:
            return *(mean(each[name], seed=case.seed, confidence=case.confidence) for name in BASES), by_chance

        yield made(
            "Label purity: the share of the commonest label; means over directions with 95 % bootstrap intervals. Dead "
            f"units, the same for all images, are left out; of more than {self.width}, so many are drawn at random.",
            ("alive", *bases),
            lambda each: (f"{each.alive} of {each.width}", *means(each.purity, chance.purity)),
        )
        yield made(
            f"Equal: the whole interval of the effect size lies in {EQUAL[0]:g} to {EQUAL[1]:g}. Rotation test: the mean "
            f"purity of the natural basis against {self.rotations} Haar rotations of the layer, two-sided.",
            ("P(unit > random)", "Mann-Whitney p", "rotation z", "rotation p", "units are"),
            lambda each: (Estimate(**vars(each.effect)), each.p, each.rotation.z, each.rotation.p, each.verdict),
        )
        yield made(
            "Entropy of the labels, over the largest possible; means over directions with 95 % bootstrap intervals.",
            bases,
            lambda each: means(each.entropy, chance.entropy),
        )


def _layers(seen: dict[str, _Seen]) -> str:
    named = {each.layer for each in seen.values()}
    if len(named) < 2:
        return next(iter(named), "none")
    return "; ".join(f"{name}: {each.layer}" for name, each in seen.items())


def _arrays(each: _Seen) -> dict[str, np.ndarray]:
    found = {f"purity:{name}": values for name, values in each.purity.items()}
    found |= {"top": each.top, "rotated": each.rotation.rotated}
    return found | ({"excited": each.excited} if len(each.excited) else {})


def _said(case: Case, seen: dict[str, _Seen], refused: dict[str, str], chance: Chance) -> Iterator[str]:
    for name, why in refused.items():
        yield f"{name}: {why}."
    for name, each in seen.items():
        found, turned = each.effect, each.rotation
        special = "is not told apart from" if turned.p > 1 - case.confidence else "stands out from"
        yield (
            f"{name}: a unit's top images share a label more often than a random direction's with a probability of "
            f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}): {WORDS[each.verdict]}. The natural basis {special} "
            f"rotated ones (z {turned.z:+.1f}, p {turned.p:.2g})."
        )
    for name, each in seen.items():
        random, white = (mean(each.purity[basis], seed=case.seed) for basis in ("random", "whitened"))
        yield (
            f"{name}: random directions have a purity of {interval(random)}, those of the whitened layer {interval(white)}; "
            f"by chance it is {number(chance.purity)}."
        )
    for control in (net.name for net in case.nets if net.role == "untrained" and net.name in seen):
        for name in (net.name for net in case.trained if net.name in seen):
            ours, theirs = seen[name].purity["units"], seen[control].purity["units"]
            found = along.effect(ours, theirs, seed=case.seed, confidence=case.confidence)
            word = "purer than" if found.low > 0.5 else "less pure than" if found.high < 0.5 else "not told apart from"
            yield (
                f"Units of {name} are {word} those of {control} (probability to be purer {found.value:.2f}, "
                f"{found.low:.2f} to {found.high:.2f})."
            )
