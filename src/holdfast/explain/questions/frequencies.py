"""Frequencies: along which spatial frequencies is the boundary near, and which waves make a net err?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from holdfast.ascent.engine import default_slots
from holdfast.attacks.options import at_least_one, positive
from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.case import Case, Net
from holdfast.explain.compare import difference, interval, mean, median, none_for_nan, number, share
from holdfast.explain.contradictions import MISSED
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.frequencies_figures import figures
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.probes.frequencies import Band, bands, boundary, wave

ANY, ALL = "any", "all"
"""Besides the bands: as many coefficients drawn from all frequencies, and all coefficients."""
SIZES = (0.025, 0.05, 0.1, 0.2, 0.4)
"""Root mean squares of waves, of which the smallest is taken that changes `ENOUGH` of the trained nets' answers."""
ENOUGH = 0.25
SHORT = 0.02
"""By which share a distance may be short of another by the search's own precision."""
THIRDS = ("low", "middle", "high")
"""Waves below 1/6, below 1/3, and from 1/3 cycle per pixel on."""


@dataclass(frozen=True)
class _Seen:
    """Of one net: distances of the boundary by the band's name, (n,); clean errors, (n,), and those under waves, (n, F)."""

    away: dict[str, np.ndarray]
    clean: np.ndarray
    wrong: np.ndarray


@register
@dataclass(frozen=True, kw_only=True)
class Frequencies(Probe):
    """How far the boundary is along bands of spatial frequencies, and the error with one wave of each frequency added.

    The bands all have as many dimensions.

    Sources: margins in bands: Ortiz-Jimenez et al., "Hold me tight!" (NeurIPS 2020); the map of error: Yin et al., "A
    Fourier perspective on model robustness in computer vision" (NeurIPS 2019). Departures: see
    `holdfast.probes.frequencies`; the distance is that to any other answer than the net's own, so that all images have one.

    Args:
        bands: how many, from the lowest frequencies to the highest.
        steps: of the search for the boundary, per image and band.
        grid: the map has at most as many frequencies a side, an odd number, evenly spaced; half of them are measured, since
            a wave and its negative frequency are the same.
        rms: of the waves, the root mean square of the change; unless given, the smallest of 0.025, 0.05, 0.1, 0.2 and 0.4
            at which random waves change a quarter of the trained nets' answers.
    """

    question: ClassVar[str] = "Along which frequencies is the boundary near, and which waves make the net err?"

    images: int = 40
    bands: int = 5
    steps: int = 30
    grid: int = 15
    rms: float | None = None

    def __post_init__(self) -> None:
        for name in ("bands", "steps", "grid"):
            at_least_one(name, getattr(self, name))
        if self.grid % 2 == 0:
            raise BadValue(
                f"grid is {self.grid}; it must be odd, for frequency 0 to stand in its middle", hint="grid=15"
            )
        if self.rms is not None:
            positive("rms", self.rms)

    def effort(self, case: Case, n: int) -> Effort:
        searches = n * len(case.nets) * (self.bands + 2) * (self.steps + 1)
        waves = n * len(case.nets) * (len(_half(*self._axes(case))) + len(SIZES) + 2)
        return Effort(searches + waves, searches)

    def ask(self, case: Case, step: Step) -> Found:
        _, height, width = case.source.shape
        cut = bands(height, width, self.bands)
        rms = self.rms or self._size(case)
        down, across = self._axes(case)
        half = _half(down, across)
        seen = {net.name: self._seen(case, net, cut, half, rms, step) for net in case.nets}
        names = [_named(band) for band in cut]
        lengths = np.array([math.hypot(one / height, other / width) for one, other in half])
        third = np.digitize(lengths, [1 / 6, 1 / 3])
        farthest = math.sqrt(math.prod(case.source.shape))
        breaches = [
            f"{name}: no change of any image, in any band, was found to change the answer"
            for name, each in seen.items()
            if all(np.isinf(values).all() for values in each.away.values())
        ]
        breaches += [
            f"{name}: distances cannot be measured: logits or gradients are not finite"
            for name, each in seen.items()
            if any(np.isnan(values).any() for values in each.away.values())
        ]
        breaches += [f"{name}: {why}" for name, each in seen.items() if (why := _trapped(each.away))]
        return Found(
            (self._margins(case, seen, names, farthest), self._errors(case, seen, half, third, rms)),
            tuple(self._said(case, seen, names, third, rms, farthest)),
            caveats=(
                "Distances are those of a short search without the pixel box: upper bounds, along changes that no image may "
                "be able to show. They are no facts about the threat set.",
                "Waves are clipped to the pixel box, which bends them where images are black or white.",
            ),
            breaches=tuple(breaches),
            of_images={
                name: {f"boundary at {band} cycles per pixel": none_for_nan(each.away[band]) for band in names}
                for name, each in seen.items()
            },
            arrays={
                **{
                    f"{name}/away": np.stack([each.away[band] for band in (*names, ANY, ALL)])
                    for name, each in seen.items()
                },
                **{f"{name}/error": _mirrored(each.wrong.mean(0), half, down, across) for name, each in seen.items()},
                "down": np.array(down) / height,
                "across": np.array(across) / width,
            },
            words={"nets": list(seen), "bands": names, "rms": rms, "farthest": farthest},
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return figures(found)

    def _axes(self, case: Case) -> tuple[list[int], list[int]]:
        """The frequencies of the map, in periods over the height and over the width: ascending, symmetric around 0."""
        down, across = (
            np.rint(np.linspace(0, size // 2, min(self.grid // 2, size // 2) + 1)).astype(int).tolist()
            for size in case.source.shape[1:]
        )
        return [-one for one in down[:0:-1]] + down, [-one for one in across[:0:-1]] + across

    def _size(self, case: Case) -> float:
        """The smallest root mean square that changes enough answers, each image under a wave of its own."""
        draws, half = np.random.default_rng(case.seed), _half(*self._axes(case))
        chosen = [half[one] for one in draws.integers(0, len(half), case.n)]
        waves = np.stack([wave(*case.source.shape[1:], *each) for each in chosen])[:, None]
        for size in SIZES:
            changed = []
            for net in case.trained:
                x = case.batch(net).x
                moved = x + size * math.sqrt(math.prod(x.shape[2:])) * torch.from_numpy(waves).to(x)
                changed.append(
                    (net.logits(moved.clamp(0, 1)).argmax(1) != net.logits(x).argmax(1)).double().mean().item()
                )
            if np.mean(changed) >= ENOUGH:
                return size
        return SIZES[-1]

    def _seen(
        self, case: Case, net: Net, cut: tuple[Band, ...], half: list[tuple[int, int]], rms: float, step: Step
    ) -> _Seen:
        x, y, _ = case.batch(net)
        draws = np.random.default_rng(case.seed)
        height, width = x.shape[2:]
        pixels = height * width
        anywhere = np.zeros(pixels, dtype=bool)
        anywhere[draws.permutation(pixels)[: pixels // len(cut)]] = True
        masks = {_named(band): band.mask for band in cut}
        masks |= {ANY: anywhere.reshape(x.shape[2:]), ALL: np.ones(x.shape[2:], dtype=bool)}
        away = {}
        for done, (name, mask) in enumerate(masks.items()):
            step(f"bands of {net.name}", done, len(masks))
            each = torch.from_numpy(mask).to(x.device)
            parts = x.split(default_slots(x))
            found = [boundary(net.model, part, each.expand(len(part), -1, -1), steps=self.steps) for part in parts]
            away[name] = torch.cat(found).double().cpu().numpy()
        wrong = []
        for done, each in enumerate(half):
            if done % 20 == 0:
                step(f"waves at {net.name}", done, len(half))
            # The same signs for all nets: of every image and channel, as in the paper.
            signs = torch.from_numpy(draws.choice([-1.0, 1.0], (*x.shape[:2], 1, 1))).to(x)
            added = torch.from_numpy(rms * math.sqrt(pixels) * wave(height, width, *each)).to(x)
            wrong.append(net.logits((x + signs * added).clamp(0, 1)).argmax(1) != y)
        clean = net.logits(x).argmax(1) != y
        return _Seen(away, clean.cpu().numpy(), torch.stack(wrong, 1).cpu().numpy())

    def _margins(self, case: Case, seen: dict[str, _Seen], names: list[str], farthest: float) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for name, each in seen.items():
            cells = (
                median(np.minimum(each.away[band], farthest), seed=case.seed, confidence=case.confidence)
                for band in (*names, ANY, ALL)
            )
            ratio = _times(case, each.away[names[-1]], each.away[names[0]])
            missed = np.isinf(np.stack([each.away[band] for band in names])).any(0)
            rows.append((name, *cells, ratio, share(missed, confidence=case.confidence)))
        heads = (*names, "any, as many", "all", "highest / lowest", "not found in a band")
        caption = (
            f"{case.n} images: L2 distance to another answer along changes of one band of frequencies, in cycles per pixel, "
            "each band with as many dimensions; any: as many coefficients of all frequencies; all: unrestricted. Medians "
            f"with 95 % bootstrap intervals; where none was found the distance counts as {farthest:.3g}, the box's diagonal."
        )
        return Table(caption, tuple(Column(head) for head in ("net", *heads)), tuple(rows))

    def _errors(
        self, case: Case, seen: dict[str, _Seen], half: list[tuple[int, int]], third: np.ndarray, rms: float
    ) -> Table:
        _, height, width = case.source.shape
        rows: list[tuple[Cell, ...]] = []
        for name, each in seen.items():
            errors = each.wrong.mean(0)
            worst = int(errors.argmax())
            cells = (_error(case, each.wrong[:, third == one]) for one in range(len(THIRDS)))
            down, across = half[worst][0] / height, half[worst][1] / width
            rows.append((name, share(each.clean), *cells, f"{100 * errors[worst]:.0f} % at ({across:.2f}, {down:.2f})"))
        caption = (
            f"{case.n} images with one wave added, of root mean square {rms:.3g} before clipping: the share that is wrong. "
            "Low: below 1/6 cycle per pixel, middle: below 1/3, high: from there on; means over the waves, 95 % bootstrap "
            "intervals over images. The worst wave: its frequency across and down, in cycles per pixel; picked as the worst "
            f"of {len(half)}, so that its error is overstated."
        )
        heads = ("net", "clean error", *(f"{word}, error" for word in THIRDS), "worst wave")
        return Table(caption, tuple(Column(head, digits=2) for head in heads), tuple(rows))

    def _said(
        self, case: Case, seen: dict[str, _Seen], names: list[str], third: np.ndarray, rms: float, farthest: float
    ) -> Iterator[str]:
        for net in case.trained:
            each = seen[net.name]
            middle = {band: float(np.median(np.minimum(each.away[band], farthest))) for band in names}
            near, far = min(names, key=lambda band: middle[band]), max(names, key=lambda band: middle[band])
            ratio = _times(case, each.away[names[-1]], each.away[names[0]])
            word = "farther than" if ratio.low > 1 else "nearer than" if ratio.high < 1 else "not told apart from"
            yield (
                f"{net.name}: the boundary is nearest along {near} cycles per pixel (median {number(middle[near])}) and "
                f"farthest along {far} ({number(middle[far])}); in the highest band it is {word} in the lowest, "
                f"{interval(ratio)} times the distance."
            )
            errors = [_error(case, each.wrong[:, third == one]) for one in range(len(THIRDS))]
            words = ", ".join(f"{interval(error, percent=True)} for {word} ones" for word, error in zip(THIRDS, errors))
            yield (
                f"{net.name}: waves of root mean square {rms:.3g} make it err on {words}; clean it errs on "
                f"{100 * each.clean.mean():.0f} %."
            )
        model = case.nets[0].name
        for twin in case.trained[1:]:
            ratios = [_times(case, seen[model].away[band], seen[twin.name].away[band]) for band in names]
            words = ", ".join(f"{interval(ratio)} at {band}" for band, ratio in zip(names, ratios))
            yield f"The boundary of {model} over that of {twin.name}, in times its distance: {words} cycles per pixel."


def _trapped(away: dict[str, np.ndarray]) -> str | None:
    """That the search fared worse in the whole space than in a part of it, where it did so on more than single images."""
    parts = np.min([values for name, values in away.items() if name != ALL], axis=0)
    nearer = int((parts < away[ALL] * (1 - SHORT)).sum())
    if nearer <= max(1, MISSED * len(parts)):
        return None
    return (
        f"for {nearer} of {len(parts)} images the boundary was found nearer with changes of one band than without a "
        "restriction, which contains them: the unrestricted search failed, or gradients are masked"
    )


def _half(down: list[int], across: list[int]) -> list[tuple[int, int]]:
    """The frequencies of which the others are the negatives."""
    return [(one, other) for one in down for other in across if one > 0 or (one == 0 and other >= 0)]


def _mirrored(errors: np.ndarray, half: list[tuple[int, int]], down: list[int], across: list[int]) -> np.ndarray:
    """The whole map, rows by the frequency down, ascending, columns by that across."""
    found = np.zeros((len(down), len(across)))
    for (one, other), error in zip(half, errors):
        found[down.index(one), across.index(other)] = found[down.index(-one), across.index(-other)] = error
    return found


def _times(case: Case, first: np.ndarray, second: np.ndarray) -> Estimate:
    """The median of the paired ratios, images of which either is unknown left out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = difference(np.log(first), np.log(second), seed=case.seed, confidence=case.confidence)
    return Estimate(math.exp(found.value), found.n, math.exp(found.low), math.exp(found.high))


def _error(case: Case, wrong: np.ndarray) -> Interval:
    """The mean error over images and waves; the interval is over images."""
    found = mean(wrong.mean(1) if wrong.shape[1] else wrong[:0].sum(1), seed=case.seed, confidence=case.confidence)
    return Interval(found.value, found.n, found.low, found.high)


def _named(band: Band) -> str:
    return f"{band.low:.2f} to {band.high:.2f}"
