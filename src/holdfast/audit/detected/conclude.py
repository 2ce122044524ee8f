"""From what detectors said of clean, noisy and attacked images to their figures, sentences and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.audit.corrupted.notes import finding
from holdfast.audit.defended.conclude import GAIN, NO_GAIN
from holdfast.audit.defended.outcome import paired, rate, share
from holdfast.probes.detection import ROC, detection, roc, with_rejection
from holdfast.records.detected import (
    ADAPTIVE,
    NOISE,
    OBLIVIOUS,
    DetectedInfo,
    DetectedSummary,
    DetectorRow,
    Scored,
    UnderAttack,
)
from holdfast.records.schema import CLEAN, Finding, Rate


@dataclass(frozen=True)
class Told:
    """What a detector said of n images, m evaluations each.

    Args:
        ids, label: (n,).
        right, score: `CLEAN`, `NOISE`, `OBLIVIOUS`, `ADAPTIVE` -> whether the class is right, and the score; (n, m) each.
        threshold: scores of at least so much are rejected.
        calibrated: see `holdfast.records.detected.Scored`.
    """

    ids: np.ndarray
    label: np.ndarray
    right: dict[str, np.ndarray]
    score: dict[str, np.ndarray]
    threshold: float
    calibrated: Rate

    def flagged(self, what: str) -> np.ndarray:
        """Whether each evaluation rejects, (n, m) bool."""
        return self.score[what] >= self.threshold

    def fooled(self, what: str) -> np.ndarray:
        """Whether the classifier is wrong, (n,) bool."""
        return self.right[what].max(1) == 0

    def roc(self, attack: str) -> ROC | None:
        """The curve of the images that the attack fools the classifier on against the clean ones; None without any."""
        wrong = self.fooled(attack)
        return roc(self.score[CLEAN], self.score[attack][wrong]) if wrong.any() else None


def told(lines: Sequence[Scored]) -> dict[str, Told]:
    """What each detector said, in the order of the images."""
    found: dict[str, list[Scored]] = {}
    for line in sorted(lines, key=lambda line: line.first):
        found.setdefault(line.detector, []).append(line)
    return {label: _gathered(each) for label, each in found.items()}


def _gathered(lines: Sequence[Scored]) -> Told:
    def column(what: str, key: str) -> np.ndarray:
        return np.array([row for line in lines for row in getattr(line.seen[what], key)])

    label = np.array([one for line in lines for one in line.label], dtype=np.int64)
    shown = tuple(lines[0].seen)
    return Told(
        np.array([one for line in lines for one in line.ids], dtype=np.int64),
        label,
        {what: column(what, "predicted") == label[:, None] for what in shown},
        {what: column(what, "score") for what in shown},
        lines[0].threshold,
        lines[0].calibrated,
    )


def concluded(
    info: DetectedInfo, lines: Sequence[Scored], *, spent: tuple[int, int], costs: Mapping[str, float]
) -> DetectedSummary:
    """The numbers.

    Args:
        spent: forwards and gradients of the oblivious attack.
        costs: of each detector, forwards of the model for an answer.
    """
    found = told(lines)
    seen = {label: found[label] for label in info.detectors}
    # The classifier is the same for all of them.
    clean, oblivious = (~seen[lines[0].detector].fooled(what) for what in (CLEAN, OBLIVIOUS))
    # Whoever attacks the model alone may use every point that a search found, those against detectors included.
    alone = np.all([clean, oblivious, *(~each.fooled(ADAPTIVE) for each in seen.values())], axis=0)
    rows = tuple(_row(label, each, alone, lines, costs[label]) for label, each in seen.items())
    return DetectedSummary(
        info=info,
        n=len(alone),
        undefended_clean=share(clean),
        undefended_oblivious=share(clean & oblivious),
        undefended=share(alone),
        rows=rows,
        forwards=spent[0] + sum(line.forwards for line in lines),
        gradients=spent[1] + sum(line.gradients for line in lines),
        seconds=sum(line.seconds for line in lines),
        warnings=tuple(_warnings(info, rows, seen, clean & oblivious)),
    )


def _row(label: str, seen: Told, alone: np.ndarray, lines: Sequence[Scored], cost: float) -> DetectorRow:
    own = [line for line in lines if line.detector == label]
    robust = {attack: _robust(seen, attack) for attack in (OBLIVIOUS, ADAPTIVE)}
    alarms, noise = (seen.flagged(what) for what in (CLEAN, NOISE))
    row = DetectorRow(
        detector=label,
        evaluations=alarms.shape[1],
        threshold=seen.threshold,
        calibrated=seen.calibrated,
        false_alarms=_share(alarms),
        noise=_share(noise),
        noise_adds=paired(noise.mean(1) - alarms.mean(1)),
        clean=_share(seen.right[CLEAN] & ~alarms),
        oblivious=_under(seen, OBLIVIOUS),
        adaptive=_under(seen, ADAPTIVE),
        gain=(gain := paired(robust[ADAPTIVE] - alone)),
        overstated=paired(robust[OBLIVIOUS] - robust[ADAPTIVE]),
        verdict=GAIN if gain.low > 0 else NO_GAIN,
        sentence="",
        cost=cost,
        forwards=sum(line.forwards for line in own),
        gradients=sum(line.gradients for line in own),
    )
    return row.model_copy(update={"sentence": _sentence(row, float(alone.mean()))})


def _share(each: np.ndarray) -> Rate:
    return share(each.mean(1))


def _robust(seen: Told, attack: str) -> np.ndarray:
    """How often the clean image is accepted and right and the attacked one rejected or right, (n,)."""
    served = (seen.right[CLEAN] & ~seen.flagged(CLEAN)).mean(1)
    return served * (seen.right[attack] | seen.flagged(attack)).mean(1)


def _under(seen: Told, attack: str) -> UnderAttack:
    wrong = seen.fooled(attack)
    found = None
    if wrong.any():
        found = detection(
            seen.score[CLEAN],
            seen.score[attack][wrong],
            seen.threshold,
            clean_ids=seen.ids,
            attacked_ids=seen.ids[wrong],
        )
    kept = with_rejection(seen.right[CLEAN] & ~seen.flagged(CLEAN), seen.right[attack] | seen.flagged(attack))
    return UnderAttack(
        fooled=int(wrong.sum()),
        auc=rate(found.auc) if found else None,
        detected=rate(found.detected) if found else None,
        safe=rate(kept.attacked),
        robust=rate(kept.robust),
    )


def _sentence(row: DetectorRow, alone: float) -> str:
    aucs = [
        f"{each.value:.2f} ({each.low:.2f} to {each.high:.2f})"
        if each
        else "undefined, as no image fools the classifier,"
        for each in (row.oblivious.auc, row.adaptive.auc)
    ]
    kept, gain = row.adaptive.robust, row.gain
    return (
        f"{row.detector}: AUC {aucs[0]} against the attack that ignores it, {aucs[1]} against the one that knows it; robust "
        f"accuracy {100 * kept.value:.1f} % with it and {100 * alone:.1f} % without: {100 * gain.value:+.1f} points "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}), {row.verdict}"
    )


def _warnings(
    info: DetectedInfo, rows: Sequence[DetectorRow], seen: Mapping[str, Told], undefended: np.ndarray
) -> Iterator[Finding]:
    """What stands against reading the numbers as they are; ``undefended``, (n,): right without a detector, oblivious."""
    for row in rows:
        known, ignored = row.adaptive.robust.value, row.oblivious.robust.value
        apparent = paired(_robust(seen[row.detector], OBLIVIOUS) - undefended).low > 0
        if known > ignored or (known == ignored and apparent):
            yield finding(
                f"{row.detector}: adaptive not below oblivious",
                "warning",
                f"robust accuracy {_percent(known)} against the attack that knows it, {_percent(ignored)} against the other",
                "either the attack that ignores it is the best one already, as it is on a score of confidence alone, or the "
                "search failed, and the adaptive figures are too high",
                "raise --steps and --restarts, and see whether they fall",
            )
        if row.false_alarms.low > row.calibrated.high:
            yield finding(
                f"{row.detector}: false alarms",
                "warning",
                f"{_told(row.false_alarms)} of the clean images under test are flagged, and of the held-out ones "
                f"{_told(row.calibrated)}",
                "they are not alike, and the threshold does not keep the rate that it was set for",
                "hold out images of the kind that is tested",
            )
        if row.oblivious.auc is not None and row.oblivious.auc.high < 0.5:
            yield finding(
                f"{row.detector}: inverted",
                "note",
                f"attacked images score lower than clean ones: AUC {row.oblivious.auc.value:.2f}",
                "it flags them less often than clean ones",
                "do not turn its sign after the fact; leave it out",
            )
        if row.noise_adds.low > 0:
            yield finding(
                f"{row.detector}: noise",
                "note",
                f"random noise of the same radius is flagged in {_told(row.noise)} of the images, clean ones in "
                f"{_percent(row.false_alarms.value)}",
                "part of what it answers to is that an image was changed, not that it was attacked",
                "hold the share of attacked images that it flags against this one",
            )
        if flat := info.detectors[row.detector].flat:
            yield finding(
                f"{row.detector}: no gradient",
                "warning",
                flat,
                "the adaptive attack could not climb its score",
                "attack it through a differentiable stand-in before its figures are believed",
            )
        if row.gain.low > 0:
            yield finding(
                f"{row.detector}: gain",
                "note",
                f"it keeps {100 * row.gain.value:+.1f} points that the model alone loses",
                "few such gains have stood up to attacks that others made for them; a classifier that rejects compares with "
                "one that does not at half the radius (Tramer, ICML 2022)",
                "attack it with more --steps and --restarts, and hold it against robust accuracies at half the radius",
            )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _told(found: Rate) -> str:
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f} %)"
