"""Corrupted sets on disk, in the layouts of the released ones, so that any tool can read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from holdfast import __version__
from holdfast.audit.corrupted.question import Asked
from holdfast.audit.corrupted.run import PIXELS
from holdfast.audit.feed import uint8_images
from holdfast.audit.sweep import Chunk
from holdfast.corruptions.corruption import SEVERITIES
from holdfast.data.ahead import Ahead
from holdfast.data.source import Source
from holdfast.foundation.errors import BadFile, BadValue, PlanMismatch
from holdfast.records.files import output_folder, safe_names, storing, write_atomic

ABOUT = "corrupted.json"
"""What a set says of itself."""

LAYOUTS = ("arrays", "folders")

Watcher = Callable[[str, int, int], None]
"""Called with what is being written, images written and images in all."""


def write_set(source: Source, question: Asked, out: Path, *, layout: str, watch: Watcher | None = None) -> int:
    """Writes the images of every corruption and severity that was asked for; returns how many.

    ``arrays`` is CIFAR-10-C's layout: ``NAME.npy``, uint8 (5 n, H, W, C), severities 1 to 5 one after the other, and
    ``labels.npy``; of a part of the images, ``ids.npy`` says which. ``folders`` is ImageNet-C's:
    ``NAME/SEVERITY/CLASS/ID.png``, without loss. A set that was stopped goes on: a file appears when it is whole, and is
    not made again.

    Raises:
        BadValue: arrays of not all five severities, or another layout.
        PlanMismatch: ``out`` holds something else.
        StorageError: it cannot be written.
    """
    if layout not in LAYOUTS:
        raise BadValue(
            f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}", hint="for example layout='arrays'"
        )
    if layout == "arrays" and question.severities != SEVERITIES:
        raise BadValue(
            f"severities are {', '.join(map(str, question.severities))}, and arrays hold all five",
            hint="leave the severities out, or choose the layout folders",
        )
    with storing(out):
        _begin(source, question, out, layout)
        written, total = 0, len(question.corruptions) * len(question.severities) * len(source)
        for name in question.corruptions:
            for count in (_array if layout == "arrays" else _folders)(source, question, out, name):
                written += count
                if watch:
                    watch(name, written, total)
    return written


def one_image(source: Source, question: Asked, key: int) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """The image of that id (C,H,W), and (name, (severities,C,H,W)) of every corruption, uint8. Raises BadValue."""
    clean, ids = uint8_images(source.take([key]).images), np.array([key], dtype=np.int64)
    made = [
        (name, np.concatenate([question.supply(name, level, ids, clean).numpy() for level in question.severities]))
        for name in question.corruptions
    ]
    return clean[0].numpy(), made


def _begin(source: Source, question: Asked, out: Path, layout: str) -> None:
    about = {
        "made_by": f"holdfast {__version__}",
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "n": len(source),
        "variant": question.variant,
        "severities": list(question.severities),
        "frost": question.frost,
        "jpeg": question.jpeg,
        "seed": question.seed,
        "layout": layout,
    }
    output_folder(out)
    file = out / ABOUT
    if file.exists():
        try:
            known: dict[str, Any] = {"frost": "", **json.loads(file.read_text(encoding="utf-8"))}
        except (ValueError, TypeError, RecursionError) as error:
            raise BadFile(f"{file} cannot be read: {error}", hint="give a new folder with --out") from None
        # A set may grow by corruptions, so that a frost procedural or not is only then decided.
        other = [key for key in about if key != "frost" and known.get(key) != about[key]]
        if other or (question.frost and known.get("frost") not in ("", question.frost)):
            key = (other or ["frost"])[0]
            raise PlanMismatch(
                f"{out} holds another set: its {key} is {known.get(key)!r}, now it is {about[key]!r}",
                hint="give a new folder with --out",
            )
        about["frost"] = known["frost"] or about["frost"]
    elif any(out.iterdir()):
        raise PlanMismatch(f"{out} is not empty and holds no corrupted set", hint="give a new folder with --out")
    write_atomic(file, [json.dumps(about, indent=2).encode()])


def _chunks(source: Source) -> Iterator[Chunk]:
    ids = np.asarray(source.ids)
    size = max(16, PIXELS // (source.shape[1] * source.shape[2]))
    with Ahead(source) as ahead:
        ahead.expect(ids)
        for first in range(0, len(ids), size):
            part = ids[first : first + size]
            batch = ahead.take(part)
            yield Chunk(first, part, uint8_images(batch.images), np.asarray(batch.labels, dtype=np.int64))


def _array(source: Source, question: Asked, out: Path, name: str) -> Iterator[int]:
    """Writes one corruption as an array; yields the images written, of each chunk."""
    n, (channels, height, width) = len(source), source.shape
    file, part = out / f"{name}.npy", out / f".{name}.npy.part"
    if file.exists():
        yield len(SEVERITIES) * n
        return
    array = np.lib.format.open_memmap(part, "w+", np.uint8, (len(SEVERITIES) * n, height, width, channels))
    labels = np.empty(n, dtype=np.int64)
    for chunk in _chunks(source):
        labels[chunk.first : chunk.first + len(chunk.ids)] = chunk.labels
        for severity in SEVERITIES:
            made = question.supply(name, severity, chunk.ids, chunk.clean)
            start = (severity - 1) * n + chunk.first
            array[start : start + len(made)] = made.permute(0, 2, 3, 1).cpu().numpy()
            yield len(made)
    array.flush()
    np.save(out / "labels.npy", np.tile(labels, len(SEVERITIES)))
    if (np.asarray(source.ids) != np.arange(n)).any():
        np.save(out / "ids.npy", np.asarray(source.ids))
    part.replace(file)


def _folders(source: Source, question: Asked, out: Path, name: str) -> Iterator[int]:
    """Writes one corruption as image files; yields as `_array`."""
    names = safe_names(source.class_names)
    for chunk in _chunks(source):
        classes = [names[label] if label < len(names) else str(label) for label in chunk.labels.tolist()]
        for severity in question.severities:
            root = out / name / str(severity)
            output_folder(root.parent)
            output_folder(root)
            files = [root / folder / f"{key:08d}.png" for folder, key in zip(classes, chunk.ids.tolist())]
            if not all(file.exists() for file in files):
                made = question.supply(name, severity, chunk.ids, chunk.clean).cpu().numpy()
                for file, image in zip(files, made):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    part = file.with_name(f".{file.name}.part")
                    part.unlink(missing_ok=True)
                    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                    Image.fromarray(picture).save(part, format="PNG")
                    part.replace(file)
            yield len(chunk.ids)
