"""Refuses images and labels that cannot be evaluated, with the sample, the value and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.foundation.errors import BadData

CHANNELS = (1, 3)
"""The channel counts by which the axis of the channels is told from height and width."""
MOST_CLASSES = 2**20
"""A label beyond that is no class: names, counts and logits of all classes up to it would fill the memory."""


def check_images(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    where: str,
    ids: np.ndarray | Sequence[int] | None = None,
    num_classes: int | None = None,
) -> None:
    """Passes (n,C,H,W) uint8 or floating images in [0, 1] with (n,) integer labels in [0, num_classes).

    Args:
        images: what claims to be images.
        labels: what claims to be their labels.
        where: what the errors call the data.
        ids: the sample ids that the errors name; the positions where left out.
        num_classes: how many classes there are; at most `MOST_CLASSES` where left out.

    Raises:
        BadData: anything else. Two passes over floats, none over uint8.
    """
    _check_form(images, where)
    _check_pixels(images, where, ids)
    _check_labels(labels, len(images), where, ids, num_classes)


def _check_form(images: np.ndarray, where: str) -> None:
    shape, kind = images.shape, images.dtype
    if images.ndim == 3:
        raise BadData(
            f"the images of {where} have shape {shape}; (n, C, H, W) is needed",
            hint="grey images: images[:, None]; a single image: images[None]",
        )
    if images.ndim != 4:
        raise BadData(f"the images of {where} have shape {shape}; (n, C, H, W) is needed", hint="reshape them")
    if images.size == 0:
        raise BadData(f"{where} is empty: its images have shape {shape}", hint="give at least one image")
    if shape[3] in CHANNELS and shape[1] not in CHANNELS:
        raise BadData(
            f"the images of {where} have shape {shape}: the channels come last; (n, C, H, W) is needed",
            hint="images.transpose(0, 3, 1, 2), or images.permute(0, 3, 1, 2) in torch",
        )
    if kind == np.bool_:
        raise BadData(f"the images of {where} are boolean", hint="images.astype(np.uint8) * 255")
    if kind.kind in "iu" and kind != np.uint8:
        raise BadData(
            f"the images of {where} are {kind}, from {images.min()} to {images.max()}; uint8 or floats are needed",
            hint="images.astype(np.uint8) if the range is 0..255, else divide by the highest value possible",
        )
    if kind.kind not in "uf":
        raise BadData(f"the images of {where} are {kind}", hint="give uint8, float32 or float64")


def _check_pixels(images: np.ndarray, where: str, ids: np.ndarray | Sequence[int] | None) -> None:
    if images.dtype == np.uint8:
        return
    low, high = float(images.min()), float(images.max())  # NaN wins both, so that one comparison finds every fault
    if low >= 0 and high <= 1:
        return
    flat = images.reshape(len(images), -1)
    bad = ~np.isfinite(flat)
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        value = flat[row][bad[row]][0]
        raise BadData(
            f"sample {_id(row, ids)} of {where} holds the pixel {value}",
            hint="find what made it (a division by a zero deviation?), or leave that sample out",
        )
    bad = (flat < 0) | (flat > 1)
    row = int(bad.any(axis=1).argmax())
    if low >= -1e-3 and high <= 1 + 1e-3:
        hint = "an interpolation overshot: clip the images to [0, 1]"
    elif low >= 0:
        hint = "are they in 0..255? Divide them by 255"
    else:
        hint = "were they normalised? Give them as they were before, in [0, 1]; normalisation belongs into the model"
    raise BadData(
        f"sample {_id(row, ids)} of {where} holds the pixel {flat[row][bad[row]][0]:.6g}; "
        f"all pixels must lie in [0, 1] and these run from {low:.6g} to {high:.6g}",
        hint=hint,
    )


def _check_labels(
    labels: np.ndarray, n: int, where: str, ids: np.ndarray | Sequence[int] | None, num_classes: int | None
) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise BadData(
            f"the labels of {where} have shape {labels.shape}, which looks one-hot; (n,) is needed",
            hint="labels.argmax(axis=1), if every row marks one class",
        )
    if labels.ndim != 1:
        raise BadData(f"the labels of {where} have shape {labels.shape}; (n,) is needed", hint="labels.reshape(-1)")
    if len(labels) != n:
        raise BadData(f"{where} has {n} images and {len(labels)} labels", hint="give one label per image")
    if labels.dtype.kind not in "iu":
        raise BadData(
            f"the labels of {where} are {labels.dtype}, the first is {labels[0]}; integers are needed",
            hint="labels.astype(np.int64), or labels.long() in torch, if they are whole class numbers counted from 0",
        )
    if int(labels.min()) < 0:
        row = int((labels < 0).argmax())
        raise BadData(
            f"sample {_id(row, ids)} of {where} has the label {labels[row]}; classes are counted from 0",
            hint="-1 often marks hidden labels: take a split whose labels are public",
        )
    most = MOST_CLASSES if num_classes is None else num_classes
    if int(labels.max()) >= most:
        row = int((labels >= most).argmax())
        allowed = f"there are {most:,} classes" if num_classes is not None else f"at most {most:,} classes are possible"
        raise BadData(
            f"sample {_id(row, ids)} of {where} has the label {labels[row]} where {allowed}",
            hint="classes are counted from 0; check that labels and class names belong together",
        )


def _id(row: int, ids: np.ndarray | Sequence[int] | None) -> int:
    return row if ids is None else int(ids[row])
