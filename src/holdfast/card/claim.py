"""A claim in the form of RobustBench's model information: what a contributor hands in, filled in as far as a run knows.

Source: the JSON files under ``model_info/`` of RobustBench/robustbench: accuracies are texts in per cent with two decimals,
``eps`` is a text such as ``"8/255"``, ``corruptions_acc`` is the mean over corruptions and severities.
Departure: ``autoattack_acc`` stays empty. It is what their own run of AutoAttack finds, and no plan of ours is that run: our
figure is ``reported``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.card.measured import Measured
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, UnknownName

OWN = (
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "footnote",
)
"""What only the model's owner knows."""
_TRUTHS = {"additional_data": bool, "number_forward_passes": int}


def claim(found: Measured, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The claim of a run, with the owner's ``fields`` in it; those of `OWN` that are not given are None.

    Raises:
        UnknownName: a field that a claim does not have, or that is measured.
        BadValue: a field of a wrong kind, or a run without a worst case and without the benchmark's corruptions.
    """
    for key, value in fields.items():
        if key not in OWN:
            raise UnknownName.among("field of a claim", key, OWN)
        kind = _TRUTHS.get(key, str)
        if type(value) is not kind:
            raise BadValue(f"{key} is {value!r}; it must be a {kind.__name__}", hint=f"write --field {key}=...")
    given: dict[str, Any] = {key: fields.get(key) for key in OWN}
    given["dataset"] = fields.get("dataset", found.data.name)
    if run := found.worst:
        summary = run.summary
        # No floating-point noise in what others parse: 8/255 stands as it does everywhere.
        measured = {
            "eps": units.show(summary.eps),
            "clean_acc": _percent(summary.clean_accuracy.value),
            "reported": _percent(summary.robust_accuracy.value),
            "autoattack_acc": None,
        }
        how = f"{summary.threat}, plan {summary.plan}, {summary.robust_accuracy.n} images, seed {summary.seed}"
    elif found.weather and (mean := found.weather.summary.mean_error):
        weather = found.weather.summary
        measured = {
            "eps": None,
            "clean_acc": _percent(1 - weather.clean.error.value),
            "reported": _percent(1 - mean.value),
            "corruptions_acc": _percent(1 - mean.value),
        }
        if weather.mce is not None:
            measured["corruptions_mce"] = _percent(weather.mce.value)
        how = f"{len(weather.counted)} corruptions, {weather.n} images"
    else:
        raise BadValue(
            "the run holds neither a worst case nor the benchmark's corruptions",
            hint="audit it with --eps, or with --corruptions all",
        )
    holdfast = found.parts[0].info.versions.get("holdfast", "")
    doubts = "; ".join(f"{doubt.check}: {doubt.saw}" for doubt in found.doubts)
    note = f"Measured by holdfast {holdfast}: {how}." + (f" Doubts: {doubts}." if doubts else "")
    given["footnote"] = " ".join(filter(None, (fields.get("footnote"), note)))
    return {**given, **measured, "unreliable": bool(found.doubts)}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
