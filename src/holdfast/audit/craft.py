"""Adversarial sets: one attack on every image, written to a file that `holdfast.data` reads back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from holdfast.ascent import engine
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import name_of
from holdfast.models.model import Model
from holdfast.records.files import safe_names, storing, write_atomic
from holdfast.threats.threat import Threat

CHUNK = 8
"""Batches between two writes."""


@dataclass(frozen=True)
class Crafted:
    """An adversarial set.

    Args:
        n: images; ``right``: how many the model classifies correctly when they are clean; ``fooled``: of those, how many not
            any more.
        distance: the median distance of the ones that fool, in the threat's norm; None if none does.
        forwards, backwards: evaluations of one image.
        rounded: how many of the ones that fool still do, and lie within eps, after rounding to 8 bits; None where nothing is
            rounded.
    """

    n: int
    right: int
    fooled: int
    distance: float | None
    forwards: int
    backwards: int
    rounded: int | None


def craft(
    model: Model,
    source: Source,
    attack: Attack,
    *,
    threat: Threat,
    out: Path,
    seed: int = 0,
    slots: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Crafted:
    """Attacks every image and writes what the attack kept: the point that fools, else the one of the largest loss.

    A suffix says what is written: ``.npz`` and ``.safetensors`` hold ``images`` (N, C, H, W) floats in [0, 1], ``labels``,
    ``ids``, ``fooled`` and ``distance``, (N,); anything else is a folder of PNG files, one folder per class, rounded to 8
    bits. Parts are written as they are finished, so that a stopped call goes on.

    Args:
        model, source, threat: what is attacked, on which images, within which set.
        attack: the search.
        out: where to. It must not exist yet.
        seed: of every random draw.
        slots: how many searches run at once; chosen by the images' size unless given.
        watch: called with (samples finished, all samples).

    Raises:
        BadValue: ``out`` exists; the attack cannot search the set; PNG files cannot hold these images.
        StorageError: it cannot be written.
    """
    attack.check(threat)
    if out.exists():
        raise BadValue(f"{out} exists", hint="give a new name with --out; nothing is overwritten")
    as_png = out.suffix not in (".npz", ".safetensors")
    if as_png and source.shape[0] not in (1, 3):
        raise BadValue(f"images of {source.shape[0]} channels are no PNG files", hint="give --out NAME.npz")
    ids = np.asarray(source.ids)
    sample, _ = tensors(source, ids[:1], dtype=model.dtype, device=model.device)
    size = CHUNK * (slots or engine.default_slots(sample))
    asked = {
        "model": model.fingerprint,
        "data": source.fingerprint(),
        "attack": name_of(attack),
        "configuration": attack.configuration(),
        "threat": [threat.name, threat.eps],
        "seed": seed,
        "n": len(ids),
        "size": size,
    }
    identity = json.dumps(asked, sort_keys=True)
    folder = out.with_name(out.name + ".parts")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(ids), size)):
        path = folder / f"{number}.safetensors"
        part = ids[start : start + size]
        if not _finished(path, identity):
            x, y = tensors(source, part, dtype=model.dtype, device=model.device)
            with frozen(model.module):
                right = torch.cat([engine.predict(model, some).argmax(1) for some in x.split(size // CHUNK)]) == y
            made = attack(model.module, x, y, threat=threat, seed=seed, ids=torch.from_numpy(part.copy()), slots=slots)
            arrays = {
                "images": made.x.cpu().numpy(),
                "labels": y.cpu().numpy(),
                "ids": part,
                "fooled": made.fooled.cpu().numpy(),
                "distance": made.distance.cpu().numpy(),
                "right": right.cpu().numpy(),
                "spent": np.array([int(made.forwards.sum()), int(made.backwards.sum())]),
            }
            write_atomic(path, [save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"identity": identity})])
        if watch:
            watch(start + len(part), len(ids))
    parts = [folder / f"{number}.safetensors" for number in range(-(-len(ids) // size))]
    rounded = None
    with storing(out):
        if as_png:
            rounded = _write_folder(out, parts, model, source, threat)
        else:
            _write_file(out, parts)
    together = {name: np.concatenate([_read(path, name) for path in parts]) for name in ("right", "fooled", "distance")}
    spent = np.sum([_read(path, "spent") for path in parts], axis=0)
    won = together["right"] & together["fooled"]
    result = Crafted(
        n=len(ids),
        right=int(together["right"].sum()),
        fooled=int(won.sum()),
        distance=float(np.median(together["distance"][won])) if won.any() else None,
        forwards=int(spent[0]),
        backwards=int(spent[1]),
        rounded=rounded,
    )
    shutil.rmtree(folder)
    return result


def _finished(path: Path, identity: str) -> bool:
    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("identity") == identity
    except (OSError, SafetensorError):
        return False


def _read(path: Path, name: str) -> np.ndarray:
    with safe_open(path, "np") as file:
        return file.get_tensor(name)


_KEPT = ("images", "labels", "ids", "fooled", "distance")


def _write_file(out: Path, parts: list[Path]) -> None:
    arrays = {name: np.concatenate([_read(path, name) for path in parts]) for name in _KEPT}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        write_atomic(out, [save(arrays)])
        return
    temporary = out.with_name(f".{out.name}.tmp.npz")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:  # never through a link that somebody put there
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(out)


def _write_folder(out: Path, parts: list[Path], model: Model, source: Source, threat: Threat) -> int:
    """PNG files as ``CLASS/ID.png``; returns how many of the points that fool still do."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    still, names = 0, safe_names(source.class_names)
    for path in parts:
        ids, labels = _read(path, "ids"), _read(path, "labels")
        x0, y = tensors(source, ids, dtype=model.dtype, device=model.device)
        images = _rounded(_read(path, "images"), x0.cpu().numpy())
        won = _read(path, "fooled") & _read(path, "right")
        for image, sample, label in zip(images, ids.tolist(), labels.tolist()):
            place = temporary / (names[label] if label < len(names) else str(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(place / f"{sample}.png")
        x = torch.from_numpy(images).to(model.device, model.dtype) / 255
        with frozen(model.module):
            fools = torch.cat([engine.predict(model, some).argmax(1) for some in x.split(256)]) != y
        # How far an image was turned cannot be measured on it; rounding turns nothing.
        near = torch.ones_like(fools) if threat.parametric else threat.distance(x0, x) <= threat.eps * (1 + 1e-6) + 1e-6
        still += int((fools & near & torch.from_numpy(won).to(fools.device)).sum())
    temporary.replace(out)
    return still


def _rounded(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """To 8 bits, every pixel towards the clean image: to the nearest level, many would leave the set."""
    clean = np.rint(x0.astype(np.float64) * 255)
    levels = clean + np.trunc(np.round(x.astype(np.float64) * 255 - clean, 4))
    return levels.clip(0, 255).astype(np.uint8)
