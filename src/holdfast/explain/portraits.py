"""What a case file shows of an image: its gradients on one scale, and what each net says around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.ascent.frozen import frozen
from holdfast.data.source import Subset
from holdfast.explain.case import Case
from holdfast.explain.probe import Effort
from holdfast.explain.questions.gradients_figures import scaled
from holdfast.explain.questions.slices import adversarial, at_random, slices, tangents
from holdfast.losses import margin
from holdfast.probes.plane import across

PICTURED = 12
"""How many of the case files have portraits: those of the most fragile images."""
STEPS, GRID, REACH = 20, 17, 2.0
"""Of the search for the adversarial direction; points on a side of a slice; half of its side, in eps."""


def effort(case: Case) -> Effort:
    """What the portraits take."""
    rows = min(PICTURED, case.n) * len(case.nets)
    return Effort(rows * (GRID**2 + STEPS + 2), rows * (STEPS + 1))


def portraits(case: Case, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Pictures of these images of the case, ascending.

    Returns:
        ``ids`` (m,); ``images`` (m, C, H, W) in [0, 1]; for each net ``NET/gradient`` (m, C, H, W), of the margin, in units
        of 3 standard deviations of the widest of all trained nets' gradients of that image; ``NET/classes`` and
        ``NET/outside`` (m, GRID, GRID): the class at x + a u + b v, u the adversarial direction, v a random one as long in
        L2, both from -REACH to REACH, and how much of the displacement leaves [0, 1]; ``NET/becomes`` (m,): the class where
        the search for u ended.
    """
    asked = Case(case.nets, Subset(case.source, np.array(sorted(ids), dtype=np.int64)), case.threat, seed=case.seed)
    axis, gradients, found = np.linspace(-REACH, REACH, GRID).tolist(), {}, {}
    for net in asked.nets:
        batch = asked.batch(net)
        with frozen(net.model.module):
            gradients[net.name] = tangents(net, margin, batch.x, batch.y).grad.double().cpu()
            u = adversarial(asked, net, batch, steps=STEPS)
            v = across(at_random(asked, batch, 0), u).nan_to_num(0)  # where a net has no gradient there is no u
            seen = slices(asked, net, batch, u, v, range(len(batch.y)), axis, clip=True)
            found[f"{net.name}/becomes"] = net.logits((batch.x + u).clamp(0, 1)).argmax(1).cpu().numpy()
        found |= {f"{net.name}/{key}": seen[key] for key in ("classes", "outside")}
    maps, _ = scaled(gradients, [net.name for net in asked.trained], "shared")
    found |= {f"{name}/gradient": each for name, each in zip(gradients, maps)}
    images = asked.batch(asked.nets[0]).x.float().cpu().numpy()
    return {"ids": np.asarray(asked.source.ids), "images": images, **found}
