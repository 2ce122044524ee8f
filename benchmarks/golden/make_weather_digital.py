"""Golden results of the weathers and digital corruptions: what the ImageNet-C authors' own code makes of a small picture.

The code is github.com/hendrycks/robustness, ImageNet-C/create_c; give a checkout of it. It needs numpy, scipy,
scikit-image, OpenCV and Wand with ImageMagick 6. Where today's versions of them have renamed something the old name is
mended while it is loaded, see `MENDED`, and nothing else. Its functions draw from numpy's global generator; the draws,
which do not depend on the severity, are made again from the same seed and stored.

The constants of 32 pixels are run on 32 pixels and those of 224 on 28, both on 16 where pixels change each for itself:
apart from the constants the size is in the side of the fog and in the shapes of fog, frost and snow. Frost is laid over
made-up pictures, see `pane`: the photographs are not ours to pass on. JPEG and pixelate are Pillow's own and are compared
with it in the unit tests.

    python benchmarks/golden/make_weather_digital.py CHECKOUT [--out tests/parity/golden/weather_digital.npz]
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import io
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import skimage.color
import skimage.data
import skimage.filters
from PIL import Image
from scipy.ndimage import map_coordinates, zoom
from wand.api import library
from wand.image import Image as WandImage

NAMES = ("brightness", "contrast", "elastic_transform", "fog", "frost", "saturate", "snow", "spatter")
FILES = {"32": "make_cifar_c.py", "224": "make_imagenet_c.py"}
SIDES = {"32": 32, "224": 28}
SEED = 5
POINTWISE = ("brightness", "contrast", "saturate")
MENDED = (
    ("multichannel=True", "channel_axis=-1"),
    ("np.fromstring", "np.frombuffer"),
    ("np.float_)", "np.float64)"),
    # From here on: another size.
    ("mapsize=256", "mapsize=32"),
    ("[:224, :224]", "[:28, :28]"),
    ("reshape(224, 224, 1)", "reshape(28, 28, 1)"),
    ("frost.shape[0] - 224", "frost.shape[0] - 28"),
    ("frost.shape[1] - 224", "frost.shape[1] - 28"),
    ("_start + 224", "_start + 28"),
)


def pane(index: int) -> np.ndarray:
    """A made-up picture of frost (H,W,3): tests/parity/test_corruptions_weather_digital.py makes the same."""
    row, column, band = np.ogrid[: 200 + 10 * index, : 250 - 10 * index, :3]
    return ((row * (3 + index) + column * (5 + band) + row * column // (7 + index)) % 256).astype(np.uint8)


def reference(folder: Path, variant: str) -> dict[str, Any]:
    """The functions of one generator, made to run: nothing else of its file is executed."""
    text = (folder / FILES[variant]).read_text()
    for old, new in MENDED:
        text = text.replace(old, new)
    wanted = {*NAMES, "plasma_fractal", "clipped_zoom", "MotionImage"}
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    library.MagickMotionBlurImage.argtypes = (ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double)
    panes = SimpleNamespace(**vars(cv2))
    panes.imread = lambda name: pane(int(name[-5]) - 1)[..., ::-1]
    names: dict[str, Any] = {
        "np": np,
        "sk": skimage,
        "cv2": panes,
        "gaussian": skimage.filters.gaussian,
        "scizoom": zoom,
        "map_coordinates": map_coordinates,
        "BytesIO": io.BytesIO,
        "PILImage": Image,
        "WandImage": WandImage,
        "wandlibrary": library,
    }
    exec(compile(tree, FILES[variant], "exec"), names)
    return names


def draws(name: str, side: int, scale: float) -> dict[str, np.ndarray]:
    """What the reference draws for an image, in the layout of holdfast, without the axis of the batch."""
    state = np.random.RandomState(SEED)
    if name == "elastic_transform":
        return {
            part: state.random_sample(shape)
            for part, shape in (("points", (3, 2)), ("across", (side, side)), ("down", (side, side)))
        }
    if name == "fog":
        return {"clouds": state.random_sample(32 * 32 - 1)}
    if name == "frost":
        picture = state.randint(5)
        height, width = (round(of * scale) for of in pane(picture).shape[:2])
        row, column = state.randint(0, height - side), state.randint(0, width - side)
        return {"picture": np.array(picture), "row": np.array(row), "column": np.array(column)}
    if name == "snow":
        return {"normal": state.standard_normal((side, side)), "angle": np.array(state.uniform(-135, -45))}
    return {"normal": state.standard_normal((side, side))} if name == "spatter" else {}


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
    parser.add_argument("--out", type=Path, default=Path("tests/parity/golden/weather_digital.npz"))
    arguments = parser.parse_args()

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
    for variant, side in SIDES.items():
        functions = reference(arguments.checkout / "ImageNet-C" / "create_c", variant)
        for name in NAMES:
            image = picture(16 if name in POINTWISE else side)
            arrays[f"input/{len(image)}"] = image.transpose(2, 0, 1)
            for draw, value in draws(name, side, 0.2 if variant == "32" else 1.0).items():
                arrays[f"draw/{name}/{variant}/{draw}"] = value.astype(np.float32) if value.dtype.kind == "f" else value
            for severity in (1, 3, 5):
                np.random.seed(SEED)  # noqa: NPY002
                output = np.uint8(functions[name](Image.fromarray(image), severity))
                arrays[f"output/{name}/{variant}/{severity}"] = output.transpose(2, 0, 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
