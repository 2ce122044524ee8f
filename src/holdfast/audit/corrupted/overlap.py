"""The rule of the corruption benchmark: never train on the test corruptions. What a model declares, held against it.

Sources: Hendrycks and Dietterich (ICLR 2019), section 4.1; Hendrycks et al., "AugMix" (ICLR 2020), who leave out the
operations that overlap; Mintun et al. (NeurIPS 2021), who show that the gains of an augmentation shrink on corruptions that
are unlike it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from holdfast.records.conditions import Overlap

_NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
_BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")
_COLOUR = ("brightness", "contrast", "saturate")
_NEUTRAL = {
    *("adversarial", "autocontrast", "crop", "cutmix", "cutout", "equalize", "flip", "mixup", "posterize", "resize"),
    *("rotate", "scale", "shear", "shear_x", "shear_y", "solarize", "translate", "translate_x", "translate_y"),
}

FAMILIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_NEUTRAL, ()),
    **dict.fromkeys(("noise", "gaussian_noise", "uniform_noise", "shot_noise", "speckle_noise"), _NOISE),
    **dict.fromkeys(("impulse_noise", "salt_and_pepper"), _NOISE),
    **dict.fromkeys(
        ("blur", "gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "median"), _BLUR
    ),
    **dict.fromkeys(("brightness", "contrast", "saturate", "colour", "color", "color_jitter", "sharpness"), _COLOUR),
    "snow": ("snow",),
    "frost": ("frost",),
    "fog": ("fog",),
    "rain": ("spatter", "snow"),
    "spatter": ("spatter",),
    "elastic_transform": ("elastic_transform",),
    "pixelate": ("pixelate",),
    "jpeg": ("jpeg_compression",),
    "jpeg_compression": ("jpeg_compression",),
}
"""Image operation of a training -> the corruptions that are of its family.

Autocontrast and equalise are AugMix's own, which the field does not count as overlapping."""


def overlap(declared: Mapping[str, str], corruptions: Iterable[str]) -> Overlap:
    """What the declaration of a model's weights (their metadata) means for these corruptions.

    A declaration is the key ``operations``: a JSON list of names from `FAMILIES`. Without it nothing is known.
    """
    try:
        operations = tuple(str(each) for each in json.loads(declared["operations"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        return Overlap()
    touched = {
        name: found
        for name in corruptions
        if (found := tuple(each for each in operations if name in FAMILIES.get(each, ())))
    }
    return Overlap(
        declared=operations, touched=touched, unknown=tuple(each for each in operations if each not in FAMILIES)
    )
