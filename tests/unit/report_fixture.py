"""Synthetic run folders: a stage breaks a sample where eps times the stage's force exceeds the sample's strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from holdfast.foundation.stats import wilson
from holdfast.records.schema import (
    CurvePoint,
    DataInfo,
    Finding,
    ModelInfo,
    Rate,
    Record,
    RunInfo,
    StageInfo,
    StageSummary,
    Summary,
)

STAGES = {"pgd": 0.8, "apgd-ce": 0.95, "apgd-t": 1.0}


def rate(successes: int, n: int) -> Rate:
    found = wilson(successes, n)
    return Rate(value=found.value, n=n, low=found.low, high=found.high)


def write_run(
    folder: Path,
    *,
    name: str = "standard",
    n: int = 200,
    num_classes: int = 10,
    class_names: tuple[str, ...] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    threat: str = "linf",
    curve: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255, 16 / 255),
    eps: float = 8 / 255,
    typical: float = 6 / 255,
    wrong: float = 0.03,
    seed: int = 0,
    data: str = "digits",
    gallery: int | None = 12,
    findings: tuple[Finding, ...] = (),
    command: str = "holdfast audit --model net:small_cnn --data digits --threat linf --eps 8/255 --out runs/standard",
    searches: bool = True,
) -> Summary:
    """Writes a whole run folder. ``typical``: the middle radius that breaks a sample (0: all break, inf: none does)."""
    draw = np.random.default_rng(seed)
    names = class_names or tuple(str(label) for label in range(num_classes))
    labels = np.random.default_rng(99).integers(0, num_classes, n)
    strength = np.full(n, typical) if typical in (0, np.inf) else typical * draw.lognormal(0, 0.8, n)
    right = draw.random(n) >= wrong
    other = (labels + draw.choice([1, 1, 1, 2, 5], n)) % num_classes
    records, stages, alive = [], [], np.arange(n)

    def record(key: int, stage: str, at: float, fooled: bool, margin: float, **more: int) -> Record:
        return Record(
            id=int(key), stage=stage, eps=at, label=int(labels[key]), fooled=fooled,
            predicted=int(other[key] if fooled else labels[key]), margin=margin, value=-margin, distance=at,
            steps=10, forwards=1 if stage == "clean" else 11, backwards=0 if stage == "clean" else 10, **more,
        )  # fmt: skip

    def close(stage: str, at: float, entered: int, mine: list[Record]) -> None:
        broken = sum(found.fooled for found in mine)
        spent = sum(found.forwards for found in mine), sum(found.backwards for found in mine)
        stages.append(
            StageSummary(stage=stage, eps=at, entered=entered, broken=broken, forwards=spent[0], backwards=spent[1])
        )
        records.extend(mine)

    size = np.where(np.isfinite(strength), strength, 40 / 255)
    close("clean", 0.0, n, [record(k, "clean", 0.0, not right[k], size[k] * 200 if right[k] else -1.5) for k in alive])
    alive, points = alive[right], [CurvePoint(eps=0.0, robust_accuracy=rate(int(right.sum()), n))]
    for at in curve:
        for stage, force in STAGES.items():
            fooled = strength[alive] < at * force
            if searches and len(alive):
                records.append(record(alive[0], stage, at, True, -99.0, final=False))
            mine = [record(k, stage, at, bool(f), float((size[k] - at * force) * 200)) for k, f in zip(alive, fooled)]
            close(stage, at, len(alive), mine)
            alive = alive[~fooled]
        points.append(CurvePoint(eps=at, robust_accuracy=rate(len(alive), n)))

    folder.mkdir(parents=True, exist_ok=True)
    info = RunInfo(
        name=name, created="2025-03-01T12:00:00+00:00", plan="quick", threat=threat, eps=eps, curve=curve, seed=seed,
        stages=tuple(StageInfo(name=s, attack=s.split("-")[0], configuration={"steps": 100}) for s in STAGES),
        model=ModelInfo(name=f"net:{name}", fingerprint="m" * 64, classes=num_classes, shape=shape, parameters=123456,
                        dtype="float32", device="cpu", declared={"trained": "standard"}),
        data=DataInfo(name=data, fingerprint=f"{data}-fingerprint", n=n, shape=shape, class_names=names),
        findings=findings, versions={"holdfast": "0.1.0", "torch": "2.13.0"}, command=command,
    )  # fmt: skip
    summary = Summary(
        name=name, model=f"net:{name}", data=data, plan="quick", threat=threat, eps=eps, seed=seed,
        clean_accuracy=points[0].robust_accuracy, curve=tuple(points),
        robust_accuracy=next(p for p in points if p.eps == eps).robust_accuracy,
        stages=tuple(stages), forwards=sum(s.forwards for s in stages),
        backwards=sum(s.backwards for s in stages), discarded=0, seconds=75.5, warnings=findings,
    )  # fmt: skip
    (folder / "run.json").write_text(info.model_dump_json(), encoding="utf-8")
    (folder / "summary.json").write_text(summary.model_dump_json(), encoding="utf-8")
    (folder / "records.jsonl").write_text(
        "".join(r.model_dump_json(exclude_none=True) + "\n" for r in records), encoding="utf-8"
    )
    if gallery is not None:
        broken = [r for r in records if r.fooled and r.final and 0 < r.eps <= eps][:gallery]
        clean = _images(labels[[r.id for r in broken]] if broken else labels[:0], shape)
        noise = [r.eps * np.sign(draw.standard_normal(shape)) for r in broken]
        adversarial = np.clip(clean + np.array(noise).reshape(clean.shape), 0, 1).astype(np.float32)
        ids = np.array([r.id for r in broken], dtype=np.int64)
        save_file({"ids": ids, "clean": clean, "adversarial": adversarial}, folder / "gallery.safetensors")
    return summary


def _images(labels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Rings whose radius depends on the label: something a reader can tell apart."""
    channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    away = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) / max(height, width)
    rings = [
        np.stack([np.exp(-(((away - 0.05 * (k % 10)) / (0.08 + 0.03 * c)) ** 2)) for c in range(channels)])
        for k in labels
    ]
    return np.array(rings, dtype=np.float32).reshape(-1, *shape)
