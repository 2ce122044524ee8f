"""Our corruptions beside imagecorruptions and the ImageNet-C authors' code: images per second of one core, in one run.

Every corruption at severities 1, 3 and 5 on 256 photographs of 32 pixels and 16 of 224, cut from those that scikit-image
carries. All libraries get images ready in memory, in the form their users have: ours a batch of uint8 tensors, the peers one
image after the other. Our draws are made within the clock, as theirs are. Rounds are interleaved, seconds are CPU seconds of
one thread, and a ratio is formed within a round before the median is taken. A slow peer gets as many images as fit in half a
second. As under the command line the C library keeps what is freed, for all libraries alike: else what one has
given back to the system decides how fast the next one is.

What is compared at 32 pixels differs between the peers: the authors have constants for it, imagecorruptions has those for
224 pixels at every size. For the corruptions without draws the differences to the authors' images are told, too; with draws
they are what the parity tests replay.

imagecorruptions 1.1.2, the version that is published, fails at import on a fresh installation; a checkout of its repository
runs once `pkg_resources`, which setuptools no longer has, is replaced: this script does that. It needs scikit-image, scipy,
OpenCV and numba; the authors' code needs Wand and ImageMagick 6 besides.

    python benchmarks/corruptions_vs_peers.py [--imagecorruptions CHECKOUT] [--authors CHECKOUT] [--only NAME ...]
        [--rounds 3] [--frost DIR] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from holdfast.audit.corrupted.error import TEST, VALIDATION
from holdfast.cli import keep_freed_memory
from holdfast.corruptions.corruption import draw_keys
from holdfast.data.frost import frost_photographs
from holdfast.foundation import registry
from peers.measuring import machine

SIZES = {"32": 256, "224": 16}
"""Variant -> how many images."""

COMPARED = (1, 3, 5)
ENOUGH = 0.5
"""CPU seconds after which a peer is given no more images in a round."""

DRAWLESS = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)

Corrupt = Callable[[str, int], int]
"""Corrupts images by that name and severity; returns how many."""


def photographs(side: int, count: int) -> np.ndarray:
    """Squares cut out of scikit-image's photographs, (count, side, side, 3) uint8."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        whole = [skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket][number % 4]()
        edge = draw.randint(min(2 * side, 200), 290)
        top, left = draw.randint(0, whole.shape[0] - edge), draw.randint(0, whole.shape[1] - edge)
        cut = Image.fromarray(whole[top : top + edge, left : left + edge, :3])
        found.append(np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(found)


def ours(
    images: np.ndarray, variant: str, frost: tuple[np.ndarray, ...]
) -> tuple[Corrupt, Callable[[str, int], np.ndarray]]:
    x, ids = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.arange(len(images))
    made = {name: registry.load("corruption", name) for name in (*TEST, *VALIDATION)}
    pictures = tuple(torch.from_numpy(each.copy()) for each in frost)

    def run(name: str, severity: int) -> torch.Tensor:
        corruption = made[name](pictures=pictures) if name == "frost" else made[name]()
        return corruption(x, severity, draw_keys(0, name, severity, ids), variant=variant)

    return lambda name, severity: len(
        run(name, severity)
    ), lambda name, severity: run(name, severity).permute(0, 2, 3, 1).numpy()


def one_by_one(images: list[Any], corrupt: Callable[[Any, str, int], np.ndarray]) -> Corrupt:
    def run(name: str, severity: int) -> int:
        began = time.process_time()
        for number, image in enumerate(images, start=1):
            corrupt(image, name, severity)
            if time.process_time() - began > ENOUGH:
                return number
        return len(images)

    return run


def imagecorruptions(checkout: Path) -> Callable[[Any, str, int], np.ndarray]:
    """Its ``corrupt``, imported in spite of the missing ``pkg_resources``."""
    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda _, name: str(checkout / "imagecorruptions" / name)
    sys.modules.setdefault("pkg_resources", stand_in)
    sys.path.insert(0, str(checkout))
    from imagecorruptions import corrupt  # type: ignore[import-not-found]

    return lambda image, name, severity: corrupt(image, severity, name)


def authors(checkout: Path, variant: str, frost: Path | None) -> dict[str, Any]:
    """The functions of the authors' generator for that size."""
    from peers.authors import functions

    return functions(checkout / "ImageNet-C" / "create_c", variant, frost)


def timed(corrupt: Corrupt, name: str, severity: int) -> float:
    """Images per CPU second."""
    began = time.process_time()
    count = corrupt(name, severity)
    return count / (time.process_time() - began)


def rounds(libraries: dict[str, Corrupt], name: str, severity: int, num: int) -> dict[str, list[float]]:
    """Images per second of every library, round by round."""
    rates: dict[str, list[float]] = {library: [] for library in libraries}
    order = list(libraries)
    for library in order:
        libraries[library](name, severity)  # compiled, cached and warm
    for number in range(num):
        for library in order[number % len(order) :] + order[: number % len(order)]:
            rates[library].append(timed(libraries[library], name, severity))
    return rates


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    frost = frost_photographs(given.frost) if given.frost else ()
    peer = imagecorruptions(given.imagecorruptions) if given.imagecorruptions else None
    for variant, count in SIZES.items():
        images = photographs(int(variant), count)
        batch, result = ours(images, variant, frost)
        pil = [Image.fromarray(image) for image in images]
        theirs = authors(given.authors, variant, given.frost) if given.authors else {}
        for name in (*TEST, *VALIDATION):
            if given.only and name not in given.only:
                continue
            for severity in (1, 2, 3, 4, 5):
                libraries = {"holdfast": batch}
                if peer and severity in COMPARED:
                    libraries["imagecorruptions"] = one_by_one(list(images), peer)
                if name in theirs and severity in COMPARED:
                    libraries["authors"] = one_by_one(pil, lambda x, name, level: np.uint8(theirs[name](x, level)))  # noqa: B023
                rates = rounds(libraries, name, severity, given.rounds)
                entry: dict[str, Any] = {
                    "variant": variant,
                    "corruption": name,
                    "severity": severity,
                    "images_per_second": {},
                }
                for library, each in rates.items():
                    figures = {"median": statistics.median(each), "min": min(each), "max": max(each)}
                    if library != "holdfast":
                        ratios = [mine / other for mine, other in zip(rates["holdfast"], each)]
                        figures |= {
                            "ratio": statistics.median(ratios),
                            "ratio_min": min(ratios),
                            "ratio_max": max(ratios),
                        }
                    entry["images_per_second"][library] = figures
                if name in DRAWLESS and name in theirs and severity in COMPARED:
                    few = [np.uint8(theirs[name](image, severity)) for image in pil[:8]]
                    gap = np.abs(np.stack(few).astype(int) - result(name, severity)[:8])
                    entry["difference"] = {"largest": int(gap.max()), "share": float((gap > 0).mean())}
                yield entry


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--imagecorruptions", type=Path, help="a checkout of bethgelab/imagecorruptions")
    parser.add_argument("--authors", type=Path, help="a checkout of hendrycks/robustness")
    parser.add_argument("--frost", type=Path, help="the folder of the frost photographs")
    parser.add_argument("--only", nargs="+", help="these corruptions alone")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    where = machine()
    print(
        f"{where['cpu']}, 1 thread\n\nimages per CPU second; ratio ours / theirs (min to max over {given.rounds} rounds)"
    )
    entries, slower = [], []
    seconds: dict[str, float] = {}
    for entry in measured(given):
        entries.append(entry)
        rates, name = entry["images_per_second"], entry["corruption"]
        if name in TEST:
            seconds[entry["variant"]] = seconds.get(entry["variant"], 0) + 10_000 / rates["holdfast"]["median"]
        told = f"{entry['variant']:>4} {name:18}{entry['severity']}  {rates['holdfast']['median']:10,.0f}"
        for library in (each for each in rates if each != "holdfast"):
            each = rates[library]
            told += f"   {library} {each['median']:8,.1f} x{each['ratio']:.1f} "
            told += f"({each['ratio_min']:.1f} to {each['ratio_max']:.1f})"
            if each["ratio"] < 1:
                slower.append(f"{library}, {entry['variant']} pixels, {name} {entry['severity']}: x{each['ratio']:.2f}")
        if "difference" in entry:
            told += f"   differs by at most {entry['difference']['largest']}, {entry['difference']['share']:.3%}"
        print(told, flush=True)
    for variant, total in seconds.items():
        print(
            f"\n15 corruptions x 5 severities x 10,000 images of {variant} pixels: {total:,.0f} s of one core", end=""
        )
    print("\n\nwhere a peer is faster: " + ("; ".join(slower) or "nowhere"))
    if given.out:
        result = {"machine": where, "seconds_of_the_whole_set": seconds, "figures": entries}
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
