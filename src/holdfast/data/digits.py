"""The embedded data set: the handwritten digits that scikit-learn carries, enlarged to 32x32."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.size import Size, refuse
from holdfast.data.source import numbered, pick_split
from holdfast.foundation.registry import register

NUM_TEST = 500
SPLIT_SEED = 20240


@register
class Digits:
    """1,797 handwritten digits as 32x32 grey images (scikit-learn's, from UCI); 1,297 to train on, 500 to test on.

    The 8x8 images of 17 levels are enlarged bilinearly (pixel centres aligned, edges repeated) and scaled to 0..255.
    All intermediate values are dyadic fractions, so that the result is the same on every machine. Sample ids are the
    positions in scikit-learn's own order; the two parts share none.
    """

    needs_path: ClassVar[bool] = False
    looks_for: ClassVar[str] = "the name 'digits'"

    @staticmethod
    def recognises(path: Path) -> bool:
        return False

    @staticmethod
    def open(path: Path | None = None, *, split: str | None = None, size: Size | None = None) -> Arrays:
        """The part ``split``: "train" or, by default, "test". Raises UnknownName for another one."""
        refuse(size, "digits")
        part = pick_split(("train", "test"), split, where="digits")
        levels, labels = _stored()
        test = _test_ids(labels)
        ids = test if part == "test" else np.setdiff1d(np.arange(len(labels)), test)
        images = _enlarge(levels[ids])
        return from_pair(images, labels[ids], name=f"digits:{part}", class_names=numbered(10), ids=ids.astype(np.int64))


def _stored() -> tuple[np.ndarray, np.ndarray]:
    """Levels (1797,8,8) float64 and labels (1797,) int64, from scikit-learn's file: to import it takes a second more."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else Path()
    if not file.is_file():  # a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return bunch.images, bunch.target.astype(np.int64)
    table = np.loadtxt(file, delimiter=",")
    return table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)


def _test_ids(labels: np.ndarray) -> np.ndarray:
    """500 ascending ids, the classes in the proportions of the whole (largest remainders), drawn with a fixed seed."""
    counts = np.bincount(labels)
    shares = NUM_TEST * counts / len(labels)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: NUM_TEST - quotas.sum()]] += 1
    keys = np.random.PCG64(SPLIT_SEED).random_raw(len(labels))  # the raw stream is the one NumPy never changes
    order = np.argsort(keys, kind="stable")
    return np.sort(np.concatenate([order[labels[order] == one][:quota] for one, quota in enumerate(quotas)]))


def _enlarge(images: np.ndarray) -> np.ndarray:
    """(n,8,8) levels 0..16 -> (n,1,32,32) uint8."""
    places = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)[None]))
    return np.rint(weights @ images @ weights.T * (255 / 16)).astype(np.uint8)[:, None]
