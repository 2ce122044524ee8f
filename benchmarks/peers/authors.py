"""The corruptions of the ImageNet-C authors, taken out of their scripts, which run over a data set when imported."""

from __future__ import annotations

import ast
import ctypes
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import skimage
from PIL import Image
from scipy.ndimage import map_coordinates, zoom
from wand.api import library
from wand.image import Image as WandImage

from holdfast.audit.corrupted.error import TEST, VALIDATION

FILES = {"32": "make_cifar_c.py", "64": "make_tinyimagenet_c.py", "224": "make_imagenet_c.py"}
MENDED = (("multichannel=True", "channel_axis=-1"), ("np.fromstring", "np.frombuffer"), ("np.float_)", "np.float64)"))
"""Names that today's versions of their libraries have changed."""


def functions(folder: Path, variant: str, frost: Path | None) -> dict[str, Callable[[Image.Image, int], Any]]:
    """Corruption -> the authors' function of (picture, severity); frost only where its photographs are given."""
    text = (folder / FILES[variant]).read_text()
    for old, new in MENDED:
        text = text.replace(old, new)
    names = [*TEST, *VALIDATION]
    tree = ast.parse(text)
    wanted = {*names, "disk", "plasma_fractal", "clipped_zoom", "MotionImage"}
    tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    library.MagickMotionBlurImage.argtypes = (ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double)
    opencv = SimpleNamespace(**vars(cv2))
    opencv.imread = lambda name: cv2.imread(str((frost or Path()) / Path(name).name))
    space: dict[str, Any] = {
        "np": np,
        "sk": skimage,
        "cv2": opencv,
        "gaussian": skimage.filters.gaussian,
        "scizoom": zoom,
        "map_coordinates": map_coordinates,
        "BytesIO": io.BytesIO,
        "PILImage": Image,
        "WandImage": WandImage,
        "wandlibrary": library,
    }
    exec(compile(tree, FILES[variant], "exec"), space)
    return {name: space[name] for name in names if name in space and (frost or name != "frost")}
