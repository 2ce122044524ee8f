"""Golden frames and distances of the perturbations: what the ImageNet-P authors' own code makes of a small picture.

The code is github.com/hendrycks/robustness, ImageNet-P; give a checkout of it. It is one script per size, in which a block
makes the frames of one perturbation and all blocks but one are commented out. Blocks are cut out, switched on, and run on
one picture; where NumPy and scikit-image have renamed something the old name is mended, and nothing else. It was written
against torchvision 0.2, which no longer installs: give its folder, unpacked from the wheel. Its OpenCV was older than
version 5, which reads between pixels in another way.

Draws come from NumPy's legacy generator, whose stream is frozen: the tests make them again from the seed.

    python benchmarks/golden/make_perturbations.py CHECKOUT TORCHVISION [--out tests/parity/golden/perturbations.npz]
"""

from __future__ import annotations

import argparse
import ast
import collections
import ctypes
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import skimage.color
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import zoom
from scipy.stats import rankdata
from skimage.filters import gaussian
from wand.api import library
from wand.image import Image as WandImage

NAMES = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "shear",
)
FILES = {"32": "make_cifar_p.py", "64": "make_tinyimagenet_p.py", "224": "make_imagenet_p.py"}
SEED = 7
KEPT = {"32": ((1, 4, 7, 11, 15, -2), 2), "224": ((0, 1, 12, 22, -1), 7)}
"""Which frames are kept, and every how many-th row and column of them."""


def old_torchvision(folder: Path) -> Any:
    """torchvision 0.2's transforms: it asks for names that Python and Pillow have dropped since."""
    vars(PIL)["PILLOW_VERSION"] = "5.3.0"
    for name in ("Iterable", "Sequence"):
        setattr(collections, name, getattr(collections.abc, name))
    package = types.ModuleType("torchvision")
    package.__path__ = [str(folder)]
    sys.modules["torchvision"] = package
    import torchvision.transforms
    import torchvision.transforms.functional

    return torchvision.transforms


def functions(folder: Path, variant: str) -> dict[str, Any]:
    """The functions that a script defines; nothing else of it is executed."""
    tree = ast.parse((folder / "create_p" / FILES[variant]).read_text())
    tree.body = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    library.MagickMotionBlurImage.argtypes = (ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double)
    names = {"np": np, "scizoom": zoom, "skcolor": skimage.color, "WandImage": WandImage, "wandlibrary": library}
    exec(compile(tree, FILES[variant], "exec"), names)
    return names


def block(folder: Path, variant: str, name: str) -> str:
    """The code of one perturbation, switched on."""
    script = (folder / "create_p" / FILES[variant]).read_text()
    title = name.replace("_", " ").title()
    found = re.search(rf"/{{5,}} {title} Code /+\n(.*?)\n[ #]*/+ End {title} Code", script, re.DOTALL)
    lines = found[1].split("\n") if found else []
    if next(line for line in lines if line.strip(" #")).lstrip().startswith("#"):
        lines = [line.replace("# ", "", 1) for line in lines]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    code = "\n".join(line[margin:] for line in lines)
    return code.replace("multichannel=True", "channel_axis=-1").replace("np.fromstring", "np.frombuffer")


def frames(folder: Path, transforms: Any, variant: str, name: str, picture: np.ndarray) -> np.ndarray:
    """(F,H,W,3): the frames of a picture (H,W,3) uint8, the draws seeded with `SEED`."""
    made: list[np.ndarray] = []

    def collect(folder: str, **_: Any) -> None:  # in place of deleting the pictures of which a film was to be made
        files = sorted(Path(folder).glob("img*.png"), key=lambda file: int(file.stem[3:]))
        made.extend(np.asarray(Image.open(io.BytesIO(file.read_bytes()))) for file in files)
        shutil.rmtree(folder)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.random.normal(size=tuple(like.shape))).to(like.dtype)  # noqa: NPY002

    names = functions(folder, variant)
    torch.randn_like = normal
    uncut = types.SimpleNamespace(**{**vars(transforms), "CenterCrop": lambda side: lambda given: given})
    names |= {"trn": uncut, "trn_F": transforms.functional, "torch": torch, "cv2": cv2, "PILImage": Image}
    names |= {"os": os, "BytesIO": io.BytesIO, "gaussian": gaussian, "gettempdir": tempfile.gettempdir}
    names |= {"seq": made, "rmtree": collect, "folder": "", "img_loc": ""}
    names["img"] = names["orig_img"] = picture if variant == "32" else Image.fromarray(picture)
    names.setdefault("to_numpy", lambda x: np.uint8(x.numpy().transpose(1, 2, 0) * 255))
    code = block(folder, variant, name)
    code = code.replace("'/share/data", "gettempdir() + '/golden").replace("os.system(", "str(")
    if variant != "32":
        code = re.sub(rf"\b{variant}\b", str(len(picture)), code)
    np.random.seed(SEED)  # noqa: NPY002
    exec(code, names)
    return np.stack(made)[: 41 if variant == "224" and name == "translate" else 31]


def distances(folder: Path, ranks: np.ndarray) -> dict[str, float]:
    """The metrics of the evaluation script, of ranks (n, frames, classes): for noise, and at every difficulty."""
    tree = ast.parse((folder / "cifar-p-eval.py").read_text())
    wanted = {"dist", "ranking_dist", "flip_prob", "identity", "cum_sum_top5", "recip"}
    tree.body = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted)
    ]
    found = {}
    for difficulty in (1, 2, 3):
        names: dict[str, Any] = {"np": np, "num_classes": ranks.shape[2]}
        names["args"] = types.SimpleNamespace(difficulty=difficulty)
        exec(compile(tree, "cifar-p-eval.py", "exec"), names)
        for noise in (False, True):
            found[f"flips {noise} {difficulty}"] = names["flip_prob"](ranks.argmin(2), noise)
            found[f"top5 {noise} {difficulty}"] = names["ranking_dist"](ranks, noise)
    return found


def pictures() -> dict[str, np.ndarray]:
    """A photograph at 32 pixels, and 112 pixels tiled with it."""
    small = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((32, 32), Image.Resampling.BOX))
    return {"32": small, "224": np.tile(small, (4, 4, 1))[:112, :112]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("torchvision", type=Path)
    parser.add_argument("--out", type=Path, default=Path("tests/parity/golden/perturbations.npz"))
    given = parser.parse_args()
    folder, transforms = given.checkout / "ImageNet-P", old_torchvision(given.torchvision)
    commit = subprocess.run(
        ["git", "-C", given.checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    packages = ("numpy", "scipy", "scikit-image", "pillow", "Wand", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    found: dict[str, Any] = {
        "origin": f"github.com/hendrycks/robustness {commit}, ImageNet-P; torchvision 0.2.1; OpenCV {cv2.__version__}; "
        f"{versions}; picture: skimage.data.astronaut (NASA, public domain)",
        "picture": pictures()["32"],
    }
    for variant, picture in pictures().items():
        which, stride = KEPT[variant]
        for name in NAMES:
            made = frames(folder, transforms, variant, name, picture)
            found[f"{name} {variant}"] = made[list(which), ::stride, ::stride].transpose(0, 3, 1, 2)
    generator = np.random.default_rng(SEED)
    logits = generator.normal(size=(6, 1, 12)) + generator.normal(size=(6, 9, 12)) / 2
    ranks = np.stack([[np.uint16(rankdata(-frame, method="ordinal")) for frame in each] for each in logits])
    found["ranks"] = ranks.astype(np.uint8)
    found |= distances(folder, ranks)
    given.out.parent.mkdir(exist_ok=True)
    np.savez_compressed(given.out, **found)
    print(given.out, given.out.stat().st_size, "bytes:", found["origin"])


if __name__ == "__main__":
    main()
