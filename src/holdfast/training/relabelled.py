"""Images whose labels are what a trained net says: unlabelled data for training."""

from __future__ import annotations

import numpy as np
from torch import nn

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.audit.feed import tensors
from holdfast.data.arrays import from_pair
from holdfast.data.source import Source

_AT_ONCE = 256


def relabelled(source: Source, teacher: nn.Module) -> Source:
    """The same images with the classes that ``teacher`` gives them; the labels of ``source`` are not looked at.

    Source: Carmon et al., "Unlabeled data improves adversarial robustness" (NeurIPS 2019), algorithm 1; Gowal et al. 2021
    do the same to generated images. The teacher is a net trained without attacks.
    """
    parameter = next(teacher.parameters())
    labels = []
    ids = np.asarray(source.ids)
    with frozen(teacher):
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            x, _ = tensors(source, part, dtype=parameter.dtype, device=parameter.device)
            labels.append(engine.predict(teacher, x).argmax(1).cpu().numpy())
    images = source.take(ids).images
    return from_pair(
        images, np.concatenate(labels), name=f"{source.name}, labelled by a net", class_names=source.class_names
    )
