"""What is found out about a model before it is audited: by the doctor, and by the probe of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.halves import halves
from holdfast.ascent.halves import told as told_of
from holdfast.ascent.meter import Classifier
from holdfast.ascent.views import Logarithm
from holdfast.audit.checks import IMAGES, Probed, probe
from holdfast.audit.faults import BEARABLE, working
from holdfast.audit.feed import tensors
from holdfast.audit.plan import Plan
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel, HoldfastError
from holdfast.models.doctor import examine, raise_errors
from holdfast.models.model import Model
from holdfast.records.schema import Finding
from holdfast.threats.threat import Threat

EXAMINED = 256
"""How many images the doctor looks at before an audit."""


class Examined(NamedTuple):
    """What the doctor saw: its findings, and the accuracy on the ``n`` images that it looked at, which are here, too."""

    findings: tuple[Finding, ...]
    accuracy: float
    n: int
    images: torch.Tensor
    labels: torch.Tensor


def look(model: Model, source: Source) -> Examined:
    """The doctor's view of this model on images spread evenly over this source. Raises nothing on errors found.

    Raises:
        BadData: the images themselves cannot be read.
    """
    return _look_at(model, source, _spread(source))


def _spread(source: Source) -> np.ndarray:
    ids = np.asarray(source.ids)
    count = min(len(ids), EXAMINED)
    return ids[np.arange(count) * len(ids) // count]


def _look_at(model: Model, source: Source, chosen: np.ndarray) -> Examined:
    images, labels = tensors(source, chosen, dtype=model.dtype, device=model.device)
    findings = examine(model, images, labels, source.class_names)
    right = torch.zeros(0)
    if not any(finding.level == "error" for finding in findings):
        with frozen(model.module), rng_kept(model.device):
            right = (engine.predict(model, images).argmax(1) == labels).float()
    return Examined(findings, float(right.mean()) if len(right) else float("nan"), len(chosen), images, labels)


def _look_past_failures(model: Model, source: Source) -> Examined:
    """The same without the images that cannot be read or evaluated, if these are few."""
    chosen = _spread(source)
    try:
        looked = _look_at(model, source, chosen)
        if not any(finding.check == "finite logits" for finding in looked.findings):
            return looked
    except Exception:  # a foreign forward may raise anything; what is not about a few images is raised again below
        pass
    left = working(model, source, chosen)
    lost = len(chosen) - len(left)
    if len(left) and lost <= BEARABLE:
        return _look_at(model, source, left)
    try:
        return _look_at(model, source, chosen)
    except HoldfastError:
        raise
    except Exception as error:
        raise _broken(f"on {lost} of {len(chosen)} images", error) from error


def _broken(where: str, error: Exception) -> BadModel:
    return BadModel(f"the model fails {where}: {told_of(error)}", hint="call it on these images yourself, and mend it")


class Preflight(NamedTuple):
    """What was found out about a model before its audit, and the evaluations of one image that it took."""

    findings: tuple[Finding, ...]
    evaluations: int


def examined(model: Model, source: Source, plan: Plan, threat: Threat) -> Preflight:
    """What the doctor, and the probe of the model's gradients, find before an audit by this plan.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands, or not by this plan.
    """
    looked = _look_past_failures(model, source)
    findings = looked.findings
    raise_errors(findings)
    for finding in findings:
        if finding.check == "no gradient" and any(stage.attack.needs == "gradients" for stage in plan.stages):
            raise BadModel(
                f"{finding.check}: {finding.saw}, and the plan {plan.name} searches by gradients", hint=finding.remedy
            )
    if any(finding.check == "randomised" for finding in findings) and plan.draws == 1:
        raise BadModel(
            "randomised: two evaluations of the same images differ, so that one gradient is not the model's",
            hint=f"the plan {plan.name} needs a model that repeats its answers; use --plan rand, which averages over draws",
        )
    seen = _probed(model, looked, threat)
    known = {finding.check for finding in findings}
    new = tuple(finding for finding in seen.findings if finding.check not in known)
    return Preflight(findings + new, seen.forwards + seen.backwards)


def _probed(model: Model, looked: Examined, threat: Threat) -> Probed:
    """What the probe sees, without the images near which the model raises, if these are few."""
    classifier = logarithmic(model.module, looked.findings)
    failed: list[int] = []

    def probed(rows: list[int]) -> Probed:
        return probe(classifier, looked.images[rows], looked.labels[rows], threat)

    def fail(row: int, error: Exception) -> None:
        failed.append(row)
        if len(failed) > BEARABLE:
            raise _broken(f"near more than {BEARABLE} of {len(rows)} images", error) from error

    rows = list(range(len(looked.images)))
    try:
        return probed(rows)
    except Exception:  # a foreign forward may raise anything
        tried = halves(lambda at: probed(rows[at]), len(rows), IMAGES, fail)
    return probed([row for row in rows if row not in failed][: tried.most])


def logarithmic(classifier: Classifier, findings: Sequence[Finding]) -> Classifier:
    """The classifier, or its logarithm where the doctor found that it returns probabilities."""
    return (
        Logarithm(classifier)
        if any(each.check == "probabilities" and each.level == "warning" for each in findings)
        else classifier
    )
