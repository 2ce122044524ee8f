"""Images a second of a folder of JPEG files: decoded when they are asked for, ahead by threads, or by processes.

The pictures are parts of the two photographs that scikit-learn carries, 500 x 375, brought to 224 x 224 as they are read
(the shorter side to 256, then the centre). Two consumers take 16 at a time: one does nothing else, one sleeps 40 ms after
each 16, as a program does that waits for its accelerator. The ways take turns; given are the median over the rounds with
the slowest and the fastest, and the CPU milliseconds of one image in all threads and processes together. The processes
were started and had read once before they were timed, and nothing bounds how far they run ahead.

    python benchmarks/decoding.py [--images 192] [--rounds 7] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from holdfast.data.ahead import Ahead
from holdfast.data.folder import Folder
from peers.measuring import machine

BATCH, WAIT = 16, 0.04

Way = Callable[[], Iterator[float]]
"""Takes all images, a batch at each turn; hands out the CPU seconds that other processes spent on it."""

_source: Folder


def opened(root: Path) -> Folder:
    return Folder.open(root, size=(224, 224))


def write(root: Path, count: int) -> None:
    """Parts of the photographs, as JPEG of quality 90."""
    draw, photographs = np.random.default_rng(0), load_sample_images().images
    for number in range(count):
        picture = photographs[number % len(photographs)]
        top, left = (int(draw.integers(0, most + 1)) for most in (picture.shape[0] - 375, picture.shape[1] - 500))
        file = root / f"photograph {number % len(photographs)}" / f"{number:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture[top : top + 375, left : left + 500]).save(file, quality=90)


def by_threads(source: Folder, workers: int) -> Iterator[float]:
    with Ahead(source, workers=workers) as ahead:
        ahead.expect(source.ids)
        for start in range(0, len(source), BATCH):
            ahead.take(source.ids[start : start + BATCH])
            yield 0.0


def begin(root: Path) -> None:
    global _source
    _source = opened(root)


def some(ids: np.ndarray) -> tuple[np.ndarray, float]:
    began = time.process_time()
    return _source.take(ids).images, time.process_time() - began


def by_processes(source: Folder, pool: ProcessPoolExecutor) -> Iterator[float]:
    parts = pool.map(some, np.split(source.ids, range(4, len(source), 4)))
    for _ in range(0, len(source), BATCH):
        yield sum(next(parts)[1] for _ in range(BATCH // 4))


def timed(way: Way, wait: float) -> tuple[float, float]:
    """Wall and CPU seconds."""
    began, spent = time.perf_counter(), time.process_time()
    elsewhere = 0.0
    for more in way():
        elsewhere += more
        time.sleep(wait)
    return time.perf_counter() - began, time.process_time() - spent + elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        write(Path(root), given.images)
        source = opened(Path(root))
        ways: dict[str, Way] = {
            "as asked for": lambda: by_threads(source, 0),
            "1 thread": lambda: by_threads(source, 1),
            "2 threads": lambda: by_threads(source, 2),
        }
        for count in (1, 2):
            pool = stack.enter_context(ProcessPoolExecutor(count, initializer=begin, initargs=(Path(root),)))
            list(pool.map(some, np.split(source.ids, range(4, len(source), 4))))
            ways[f"{count} process{'es' * (count > 1)}"] = lambda pool=pool: by_processes(source, pool)
        taken: dict[tuple[str, float], list[tuple[float, float]]] = {}
        for _ in range(given.rounds):
            for wait in (0.0, WAIT):
                for name, way in ways.items():
                    taken.setdefault((name, wait), []).append(timed(way, wait))
    results = []
    for (name, wait), times in taken.items():
        speeds = sorted(given.images / wall for wall, _ in times)
        cpu = 1000 * statistics.median(spent for _, spent in times) / given.images
        results.append(
            {
                "way": name,
                "sleeps after each 16, ms": 1000 * wait,
                "images a second": round(statistics.median(speeds), 1),
                "slowest": round(speeds[0], 1),
                "fastest": round(speeds[-1], 1),
                "CPU ms an image": round(cpu, 2),
            }
        )
        print(results[-1])
    if given.out:
        told = {"machine": machine(), "load": os.getloadavg(), "images": given.images, "rounds": given.rounds}
        given.out.write_text(json.dumps(told | {"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
