"""Golden results of the noises and blurs: what the ImageNet-C authors' own code makes of two small pictures, with its draws.

The code is github.com/hendrycks/robustness, ImageNet-C/create_c; give a checkout of it. It needs numpy, scipy,
scikit-image, OpenCV and Wand with ImageMagick 6. It no longer runs on today's versions of them as it is: three names are
mended while it is loaded, see `reference`, and nothing else. Its functions draw from numpy's global generator (impulse
noise from an unseeded one, which is seeded here); the draws are made again from the same seed and stored.

Noises act on each value alone: a picture of 12 pixels is enough for them. Blurs are run with the constants of 32 pixels
on 32 and with those of 224 on 28 pixels: the size is in the constants and in the loops of glass blur only.

    python benchmarks/golden/make_noise_blur.py CHECKOUT [--out tests/parity/golden/noise_blur.npz]
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import io
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
import skimage.data
from PIL import Image
from scipy.ndimage import zoom
from wand.api import library
from wand.image import Image as WandImage

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")
FILES = {"32": "make_cifar_c.py", "64": "make_tinyimagenet_c.py", "224": "make_imagenet_c.py"}
SEED = 7

Reference = dict[str, Callable[..., np.ndarray]]


def reference(folder: Path, variant: str, side: int) -> Reference:
    """The functions of one generator, made to run: nothing else of its file is executed."""
    text = (folder / FILES[variant]).read_text()
    text = text.replace("multichannel=True", "channel_axis=-1").replace("np.fromstring", "np.frombuffer")
    text = text.replace(f"range({variant} - c[1]", f"range({side} - c[1]")
    wanted = {*NOISES, *BLURS, "disk", "clipped_zoom", "MotionImage"}
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    library.MagickMotionBlurImage.argtypes = (ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double)

    class Seeded:
        class util:
            @staticmethod
            def random_noise(image: np.ndarray, **options: Any) -> np.ndarray:
                return skimage.util.random_noise(image, rng=SEED, **options)

    names: dict[str, Any] = {
        "np": np,
        "sk": Seeded,
        "cv2": cv2,
        "gaussian": skimage.filters.gaussian,
        "scizoom": zoom,
        "BytesIO": io.BytesIO,
        "WandImage": WandImage,
        "wandlibrary": library,
    }
    exec(compile(tree, FILES[variant], "exec"), names)
    return {name: names[name] for name in (*NOISES, *BLURS)}


def run(functions: Reference, name: str, image: np.ndarray, severity: int, *, seed: int = SEED) -> np.ndarray:
    np.random.seed(seed)  # noqa: NPY002
    return np.uint8(functions[name](Image.fromarray(image), severity))


def draws(name: str, image: np.ndarray, constants: Any, *, seed: int = SEED) -> dict[str, np.ndarray]:
    """What `run` draws for an image (H,W,C), in the layout of holdfast, without the axis of the batch."""
    state = np.random.RandomState(seed)
    height, width, _ = image.shape
    if name in ("gaussian_noise", "speckle_noise"):
        return {"normal": state.normal(size=image.shape).transpose(2, 0, 1)}
    if name == "shot_noise":
        return {"counts": state.poisson(image / 255.0 * constants).transpose(2, 0, 1)}
    if name == "impulse_noise":
        generator = np.random.default_rng(SEED)
        flipped, salted = generator.random(image.shape) <= constants, generator.random(image.shape) <= 0.5
        return {"uniform": np.where(flipped, np.where(salted, 0.999, 0), 0.5).transpose(2, 0, 1)}
    if name == "glass_blur":
        _, reach, passes = constants
        offset = np.zeros((passes, height, width), np.uint8)
        pixels = np.s_[:, height - reach : reach : -1, width - reach : reach : -1]
        right, down = np.moveaxis(state.randint(-reach, reach, size=(*offset[pixels].shape, 2)), -1, 0)
        offset[pixels] = (down + reach) * 2 * reach + right + reach
        return {"offset": offset}
    return {"angle": state.uniform(-45, 45, size=())} if name == "motion_blur" else {}


def picture(side: int) -> np.ndarray:
    """A face, part of it burnt out and part of it black."""
    image = Image.fromarray(skimage.data.astronaut()[20:220, 130:330]).resize((side, side), Image.Resampling.BOX)
    pixels = np.array(image)
    pixels[: side // 5, : side // 3] = 255
    pixels[-side // 6 :, -side // 4 :] = 0
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--out", type=Path, default=Path("tests/parity/golden/noise_blur.npz"))
    arguments = parser.parse_args()

    from holdfast.foundation import registry  # the constants only: they are compared with the results

    commit = subprocess.run(
        ["git", "-C", arguments.checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-image", "opencv-python-headless")
    )
    arrays: dict[str, Any] = {
        "origin": f"github.com/hendrycks/robustness {commit}, ImageNet-C/create_c; {packages}; picture: "
        "skimage.data.astronaut (NASA, public domain)"
    }
    for variant, side in (("32", 32), ("224", 28)):
        functions = reference(arguments.checkout / "ImageNet-C" / "create_c", variant, side)
        for name in (*NOISES, *BLURS):
            image = picture(12 if name in NOISES else side)
            arrays[f"input/{len(image)}"] = image.transpose(2, 0, 1)
            for severity in (1, 3, 5):
                of = f"{name}/{variant}/{severity}"
                arrays[f"{of}/output"] = run(functions, name, image, severity).transpose(2, 0, 1)
                constants = registry.load("corruption", name).table[variant][severity - 1]
                for draw, value in draws(name, image, constants).items():
                    arrays[f"{of}/draw/{draw}"] = value.astype(np.float32) if value.dtype == np.float64 else value
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
