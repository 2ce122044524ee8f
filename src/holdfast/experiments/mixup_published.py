"""The tables of Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), for CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import math

from holdfast.experiments.outcome import Cell
from holdfast.foundation.stats import Interval

IMAGES = 1000
"""Test images behind every figure, by the authors' code."""

COLUMNS = ("clean", *(f"{kind} PGD-{steps}" for kind in ("own-label", "targeted") for steps in (10, 50, 200)))

_FEW = "at most 1.0"
_CIFAR10: dict[tuple[str, str], tuple[float | str, ...]] = {
    ("mixup", "none"): (93.8, 3.6, 3.2, 3.1, _FEW, _FEW, _FEW),
    ("mixup", "Gaussian noise"): (84.4, 13.5, 9.6, 8.8, 37.7, 28.6, 27.9),
    ("mixup", "rotation"): (82.0, 21.8, 18.7, 18.2, 38.9, 32.5, 26.5),
    ("mixup", "Xie et al."): (82.1, 23.0, 19.6, 19.1, 38.4, 31.1, 25.2),
    ("mixup", "Guo et al."): (83.3, 31.2, 28.8, 28.3, 57.8, 49.1, 48.9),
    ("mixup", "MI-OL"): (83.9, 26.1, 18.8, 18.3, 55.6, 51.2, 50.8),
    ("mixup", "MI-Combined"): (82.9, 33.7, 31.0, 30.7, 56.1, 49.7, 49.4),
    ("standard", "MI-OL"): (81.6, 7.4, 6.4, 6.1, 33.0, 26.7, 23.2),
    ("interpolated", "none"): (89.7, 46.7, 43.5, 42.5, 65.6, 62.5, 61.9),
    ("interpolated", "Gaussian noise"): (84.7, 55.6, 53.7, 53.5, 70.1, 69.1, 69.0),
    ("interpolated", "rotation"): (83.4, 57.8, 56.7, 55.9, 69.8, 68.2, 67.4),
    ("interpolated", "Xie et al."): (82.1, 59.7, 58.4, 57.9, 71.1, 69.7, 69.3),
    ("interpolated", "Guo et al."): (83.9, 60.9, 60.7, 60.3, 73.2, 72.1, 71.6),
    ("interpolated", "MI-OL"): (84.2, 64.5, 63.8, 63.3, 75.3, 74.7, 74.5),
    ("adversarial", "MI-OL"): (81.2, 56.2, 55.8, 55.1, 67.7, 67.2, 66.4),
}
_CIFAR100: dict[tuple[str, str], tuple[float | str, ...]] = {
    ("mixup", "none"): (74.2, 5.5, 5.3, 5.2, _FEW, _FEW, _FEW),
    ("mixup", "Gaussian noise"): (65.0, 5.5, 5.3, 5.3, 10.0, 4.3, 4.1),
    ("mixup", "rotation"): (66.2, 7.8, 6.7, 6.3, 21.4, 15.5, 15.2),
    ("mixup", "Xie et al."): (66.3, 9.6, 7.6, 7.4, 30.2, 22.5, 22.3),
    ("mixup", "Guo et al."): (66.1, 13.1, 10.8, 10.5, 33.3, 26.3, 26.1),
    ("mixup", "MI-OL"): (68.8, 12.6, 9.4, 9.1, 37.0, 29.0, 28.7),
    ("mixup", "MI-Combined"): (67.0, 14.8, 11.7, 11.3, 31.4, 26.9, 26.7),
    ("interpolated", "none"): (64.7, 26.6, 24.1, 24.0, 52.0, 50.1, 49.8),
    ("interpolated", "Gaussian noise"): (60.4, 32.6, 31.6, 31.4, 50.1, 50.0, 49.6),
    ("interpolated", "rotation"): (62.6, 34.5, 32.4, 32.1, 51.0, 49.9, 49.7),
    ("interpolated", "Xie et al."): (62.1, 42.2, 41.5, 41.3, 57.1, 56.3, 55.8),
    ("interpolated", "Guo et al."): (61.5, 36.2, 33.7, 33.3, 53.8, 52.4, 52.2),
    ("interpolated", "MI-OL"): (62.0, 43.8, 42.8, 42.5, 58.1, 56.7, 56.5),
}


def published(net: str, defence: str, classes: int) -> tuple[str, dict[str, Cell]]:
    """The data set, and what the paper says of that net under that defence, by column; empty where it says nothing.

    ``net``: what it was trained on; ``classes``: 100 for the table of CIFAR-100, else that of CIFAR-10 is taken.
    """
    name, table = ("CIFAR-100", _CIFAR100) if classes == 100 else ("CIFAR-10", _CIFAR10)
    cells = table.get((net, defence), ())
    return name, {
        column: cell if isinstance(cell, str) else Interval(round(cell / 100, 3), IMAGES, -math.inf, math.inf)
        for column, cell in zip(COLUMNS, cells)
    }
