"""A model card in Markdown, with the metadata that Hugging Face's hub reads.

Source: the model card specification of the hub, ``modelcard.md`` of huggingface/hub-docs: a YAML block between two lines of
dashes; its key ``model-index`` holds results, each with a task, a data set and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from holdfast.card.measured import Measured
from holdfast.foundation import units
from holdfast.foundation.text import visible
from holdfast.records.schema import Rate
from holdfast.report import defended
from holdfast.report.wording import film_headline, headline, markdown, weather_headline


def card(found: Measured, *, name: str | None = None, dataset: str | None = None, licence: str | None = None) -> str:
    """The card.

    Args:
        found: the run.
        name: what the model is called; as in the run unless given.
        dataset: the id of the data on the hub; the name of the run's data unless given.
        licence: the hub's identifier of the model's licence; left out unless given.
    """
    called = name or found.model.name
    return "\n".join(["---", *_yaml(_metadata(found, called, dataset, licence)), "---", "", *_body(found, called), ""])


def _metadata(found: Measured, called: str, dataset: str | None, licence: str | None) -> dict[str, Any]:
    data = {"type": dataset or found.data.name, "name": found.data.name}
    task = {"type": "image-classification", "name": "Image classification"}
    return {
        **({"license": licence} if licence else {}),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "adversarial-robustness", "holdfast"],
        "metrics": ["accuracy"],
        "model-index": [{"name": called, "results": [{"task": task, "dataset": data, "metrics": [*_metrics(found)]}]}],
    }


def _metrics(found: Measured) -> Iterator[dict[str, Any]]:
    """Every figure as the hub takes it: an accuracy in [0, 1], and what it was measured by."""
    if found.worst:
        summary = found.worst.summary
        asked = {"threat": summary.threat, "plan": summary.plan, "seed": summary.seed}
        yield _metric("Clean accuracy", summary.clean_accuracy, {})
        for point in summary.curve:
            eps = units.show(point.eps)
            if point.eps:
                yield _metric(
                    f"Robust accuracy ({summary.threat}, eps {eps})", point.robust_accuracy, {**asked, "eps": eps}
                )
    if found.weather:
        summary = found.weather.summary
        if not found.worst:
            clean = summary.clean.error
            yield _metric("Clean accuracy", _right(clean.value, clean.low, clean.high, clean.n), {})
        if mean := summary.mean_error:
            asked = {"corruptions": len(summary.counted), "severities": list(found.weather.info.severities)}
            right = _right(mean.value, mean.low, mean.high, summary.n)
            yield _metric("Accuracy under common corruptions (mean)", right, asked)
    if found.guard:
        info, summary = found.guard.info, found.guard.summary
        asked = {"defence": info.defence, "threat": info.threat, "eps": units.show(info.eps)}
        yield _metric("Accuracy behind the defence, adaptive attack", summary.adaptive.mean, asked)


def _metric(name: str, rate: Rate, asked: dict[str, Any]) -> dict[str, Any]:
    args = {**asked, "n": rate.n, "interval_95": [round(rate.low, 4), round(rate.high, 4)]}
    return {"type": "accuracy", "name": name, "value": round(rate.value, 4), "args": args}


def _right(error: float, low: float, high: float, n: int) -> Rate:
    return Rate(value=1 - error, n=n, low=1 - high, high=1 - low)


def _body(found: Measured, called: str) -> Iterator[str]:
    yield f"# {markdown(called)}"
    yield ""
    yield "## Robustness"
    yield ""
    for sentence in _sentences(found):
        yield markdown(sentence)
        yield ""
    yield "| figure | value | 95 % interval | images |"
    yield "|---|---|---|---|"
    for metric in _metrics(found):
        low, high = metric["args"]["interval_95"]
        told = f"{100 * metric['value']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %", str(metric["args"]["n"])
        yield f"| {markdown(metric['name'])} | {' | '.join(told)} |"
    yield ""
    yield "### Reasons to doubt"
    yield ""
    for doubt in found.doubts:
        yield f"- {markdown(f'{doubt.check}: {doubt.saw}. {doubt.means}. {doubt.remedy}')}"
    if not found.doubts:
        yield "No check of the audit objected."
    yield ""
    if found.worst or found.guard:
        yield "Robust accuracy is an upper bound: a stronger attack may lower it."
        yield ""
    yield "### How it was measured"
    yield ""
    for what, value in _facts(found):
        yield f"- {what}: {markdown(value)}"
    yield ""
    for part in found.parts:
        if part.info.command:
            yield f"    {visible(' '.join(part.info.command.split()))}"
            yield ""


def _sentences(found: Measured) -> Iterator[str]:
    if found.worst:
        yield headline(found.worst.summary)
    if found.weather:
        yield weather_headline(found.weather.summary)
    if found.films and found.films.summary.mean_flip_probability:
        yield film_headline(found.films.summary)
    if found.guard:
        yield defended.headline(found.guard.summary)


def _facts(found: Measured) -> Iterator[tuple[str, str]]:
    model, data = found.model, found.data
    yield "Model", f"{model.name}, {model.parameters:,} parameters, fingerprint {model.fingerprint}"
    yield "Data", f"{data.name}, {data.n:,} images, fingerprint {data.fingerprint}"
    if run := found.worst:
        stages = ", ".join(stage.name for stage in run.info.stages)
        yield "Search", f"plan {run.summary.plan} ({stages}), seed {run.summary.seed}"
        yield "Evaluations of one image", f"{run.summary.forwards:,} forwards, {run.summary.backwards:,} gradients"
    if weather := found.weather:
        yield (
            "Corruptions",
            f"{', '.join(weather.info.corruptions)}; {weather.info.origin}, {weather.info.variant} pixels",
        )
    if guard := found.guard:
        yield (
            "Defence",
            f"{guard.info.defence}, adaptive attack of {guard.info.steps} steps and {guard.info.restarts} restarts",
        )
    yield "Versions", ", ".join(f"{name} {version}" for name, version in sorted(found.parts[0].info.versions.items()))
    yield "Measured", found.parts[0].info.created


def _yaml(value: Any, depth: int = 0) -> Iterator[str]:
    """Mappings and lists as indented YAML, everything else as JSON, which YAML reads; each line without its break."""
    pad = "  " * depth
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, (dict, list)) and each:
                yield f"{pad}{key}:"
                yield from _yaml(each, depth + 1)
            else:
                yield f"{pad}{key}: {_scalar(each)}"
        return
    for each in value:
        if isinstance(each, dict):
            first, *rest = _yaml(each, depth + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{pad}- {_scalar(each)}"


def _scalar(value: Any) -> str:
    # Control characters and lone surrogates are no YAML, even where JSON would escape them.
    return json.dumps(visible(value) if isinstance(value, str) else value, ensure_ascii=False)
