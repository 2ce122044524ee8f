"""From the records of a finished run to its headline numbers, its points in one file, and a small gallery."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from holdfast.ascent.halves import halves
from holdfast.audit import checks
from holdfast.audit.entry import Past
from holdfast.audit.faults import findings
from holdfast.audit.outlines import AUDIT
from holdfast.audit.plan import Plan
from holdfast.data.source import Source, unit_images
from holdfast.foundation.stats import clopper_pearson, wilson
from holdfast.records.files import write_atomic
from holdfast.records.schema import (
    CLEAN,
    Audited,
    CurvePoint,
    Distances,
    Failure,
    Finding,
    Measured,
    Rate,
    RunInfo,
    StageSummary,
    Summary,
)
from holdfast.records.store import FINAL_POINTS, GALLERY, POINTS, SUMMARY, Store, point_bytes, reached, read_records

PICTURES = 24
"""How many broken samples the gallery shows."""
_CHUNK = 1 << 22
_DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64"}


class _Broken(NamedTuple):
    """How near a sample was broken, the smallest radius of the run that allows it, and its place among the stored points."""

    distance: float
    eps: float
    point: int


def conclude(
    store: Store,
    source: Source,
    *,
    plan: Plan,
    past: Past,
    changed: tuple[Finding, ...],
    asked: int,
    seconds: float,
    discarded: int,
    measured: Measured,
    failed: Sequence[Failure] = (),
) -> Summary:
    """Writes ``points.safetensors``, ``gallery.safetensors`` and ``summary.json``; returns the last.

    A pure function of the records, but for ``changed``, ``asked``, ``seconds``, ``discarded``, ``measured`` and ``failed``.
    ``past``: what the stages saw at the headline radius; ``changed``: what was found out while it ran, for ``asked``
    evaluations; ``failed``: the samples without the records that they should have. Where there are any, what a later
    session needs to go on is kept.
    """
    folder, info = store.folder, store.info
    radii = sorted(info.curve)
    broken: dict[int, _Broken] = {}
    stages: dict[tuple[str, float], Counter[str]] = defaultdict(Counter)
    right = forwards = backwards = 0
    for record in read_records(folder):
        if not record.final:
            continue
        forwards += record.forwards
        backwards += record.backwards
        tally = stages[record.stage, record.eps]
        tally.update(entered=1, broken=int(record.fooled), forwards=record.forwards, backwards=record.backwards)
        if record.stage == CLEAN:
            right += not record.fooled
        elif record.fooled:
            assert record.point is not None
            found = _Broken(record.distance, reached(record, radii), record.point)
            broken[record.id] = min(found, broken.get(record.id, found))
    total = info.data.n
    lost = [each for each in failed if each.stage != CLEAN]
    standing = [
        right
        - sum(found.eps <= eps for found in broken.values())
        - sum(each.eps <= eps and not (each.id in broken and broken[each.id].eps <= eps) for each in lost)
        for eps in radii
    ]
    curve = tuple(CurvePoint(eps=eps, robust_accuracy=rate(k, total)) for eps, k in zip(radii, standing))
    order = [(CLEAN, 0.0), *((stage.name, eps) for eps in radii for stage in info.stages)]
    at = {point.eps: point.robust_accuracy for point in curve}
    summed = tuple(
        StageSummary(
            stage=stage,
            eps=eps,
            entered=stages[stage, eps]["entered"],
            broken=stages[stage, eps]["broken"],
            forwards=stages[stage, eps]["forwards"],
            backwards=stages[stage, eps]["backwards"],
        )
        for stage, eps in order
    )
    here = {stage.stage: stage for stage in summed if stage.eps == info.eps}
    late = checks.of_records(plan, past, here, total) + changed + _doubts(info, list(here.values()))
    late = findings(failed, info.eps, total) + late
    told = info.findings + late
    summary = Summary(
        name=info.name,
        model=info.model.fingerprint,
        data=info.data.fingerprint,
        plan=info.plan,
        threat=info.threat,
        eps=info.eps,
        seed=info.seed,
        clean_accuracy=rate(right, total),
        robust_accuracy=at[info.eps],
        curve=curve,
        stages=summed,
        forwards=forwards,
        backwards=backwards,
        discarded=discarded,
        checks=info.checks + asked,
        seconds=seconds,
        warnings=tuple(finding for finding in told if finding.level == "warning"),
        notes=tuple(finding for finding in late if finding.level == "note"),
        audited=_audited(past, at[info.eps]),
        distances=_distances(plan, [found.distance for found in broken.values()], right),
        measured=measured,
        failed=tuple(failed),
    )
    _write_points(folder, info, dict(sorted(broken.items())))
    _write_gallery(folder, info, source, broken)
    write_atomic(folder / SUMMARY, [summary.model_dump_json(indent=2).encode()])
    if not failed:
        (folder / POINTS).unlink()  # the same points as in the safetensors file; a finished run is not resumed
    return summary


def rate(successes: int, n: int) -> Rate:
    """A share with its 95 % Wilson interval."""
    interval = wilson(successes, n)
    return Rate(value=interval.value, n=interval.n, low=interval.low, high=interval.high)


def _distances(plan: Plan, found: list[float], n: int) -> Distances | None:
    """The distribution of the distances, if the plan looked for the smallest."""
    if not any(stage.attack.goal == "minimal" for stage in plan.stages):
        return None
    ranked = sorted(found)
    shares = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    places = [(share, math.ceil(share * n) - 1) for share in shares]
    quantiles = tuple((share, ranked[place]) for share, place in places if 0 <= place < len(ranked))
    return Distances(n=n, found=len(ranked), quantiles=quantiles)


def _audited(past: Past, robust: Rate) -> Audited | None:
    """What an audit by ``standard`` says about the plan before it."""
    names = [name for name in past.seen if name.startswith(AUDIT)]
    if not names:
        return None
    drawn = ~np.isnan(past.seen[names[0]])
    count = int(drawn.sum())
    broken = sum(int((past.seen[name][drawn] < 0).sum()) for name in names)
    if not count:
        return Audited(count=0, broken=0, low=robust.value)
    unseen = round(robust.value * robust.n) - (count - broken)
    most = clopper_pearson(broken, count, confidence=0.9).high  # two-sided 90 % is one-sided 95 %
    return Audited(count=count, broken=broken, low=max(0.0, robust.value - most * max(0, unseen) / robust.n))


def _doubts(info: RunInfo, stages: Sequence[StageSummary]) -> tuple[Finding, ...]:
    """What the run's own numbers say against them."""
    found = []
    again = {stage.name for stage in info.stages if stage.entry.get("rule") == "whole"}  # it breaks anew what is broken
    late = [stage for stage in stages if stage.entered and stage.stage not in {CLEAN, *again}][-1:]
    stands = late and late[0].broken < late[0].entered
    if len(info.stages) > 1 and stands and late[0].broken > max(2, 0.05 * late[0].entered):
        found.append(
            Finding(
                check="unsettled",
                level="warning",
                saw=f"the last stage, {late[0].stage}, still broke {late[0].broken} of {late[0].entered} samples",
                means="the search has not settled: a longer one would probably break more",
                remedy="run a stronger plan before you rely on this number",
            )
        )
    if len(info.stages) == 1:
        found.append(
            Finding(
                check="one attack",
                level="warning",
                saw=f"the plan {info.plan} has a single stage",
                means="one attack is often many points too optimistic",
                remedy="run a plan of several attacks, such as fast, before you rely on this number",
            )
        )
    return tuple(found)


def _write_points(folder: Path, info: RunInfo, broken: dict[int, _Broken]) -> None:
    """``points.safetensors``: ids (M,), eps (M,), points (M, C, H, W). Streamed: the format is a header and raw bytes."""
    m, item = len(broken), point_bytes(info)
    ids = np.array(list(broken), dtype=np.int64)
    eps = np.array([found.eps for found in broken.values()], dtype=np.float64)
    header = {
        "ids": {"dtype": "I64", "shape": [m], "data_offsets": [0, 8 * m]},
        "eps": {"dtype": "F64", "shape": [m], "data_offsets": [8 * m, 16 * m]},
        "points": {
            "dtype": _DTYPES[info.model.dtype],
            "shape": [m, *info.data.shape],
            "data_offsets": [16 * m, 16 * m + m * item],
        },
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little") + text
        yield ids.tobytes() + eps.tobytes()
        with (folder / POINTS).open("rb") as file:
            for found in broken.values():
                file.seek(found.point * item)
                yield file.read(item)

    write_atomic(folder / FINAL_POINTS, parts())


def _readable(source: Source, ids: list[int]) -> list[int]:
    """Those whose images can still be read."""

    def read(at: slice) -> list[int]:
        source.take(ids[at])
        return ids[at]

    return list(chain(*halves(read, len(ids), len(ids), lambda place, error: None).parts))


def _write_gallery(folder: Path, info: RunInfo, source: Source, broken: dict[int, _Broken]) -> None:
    """Samples broken within the headline radius, at even steps through their ids: neither picked nor random."""
    ids = sorted(i for i, found in broken.items() if found.eps <= info.eps)
    chosen = [ids[place * len(ids) // PICTURES] for place in range(PICTURES)] if len(ids) > PICTURES else ids
    chosen = _readable(source, chosen)
    item = point_bytes(info)
    clean = np.zeros((0, *info.data.shape), dtype=np.float32)
    adversarial = clean
    if chosen:
        clean = unit_images(source.take(chosen).images).astype(np.float32)
        with (folder / POINTS).open("rb") as file:
            raw = []
            for i in chosen:
                file.seek(broken[i].point * item)
                raw.append(np.frombuffer(file.read(item), dtype=info.model.dtype).reshape(info.data.shape))
        adversarial = np.stack(raw).astype(np.float32)
    tensors = {"ids": np.array(chosen, dtype=np.int64), "clean": clean, "adversarial": adversarial}
    write_atomic(folder / GALLERY, [save(tensors)])
