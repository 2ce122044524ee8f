"""Data-parallel adversarial training as a law: a model of it, not a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.costs import Costs

PARAMETERS = 11_172_170
"""Of PreAct ResNet-18; a gradient has four bytes for each."""
STEPS, BATCH = 10, 128
"""Of PGD inside a training step; images in a batch."""
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}


def reduced(world: int, bandwidth: float, link: float) -> float:
    """A ring all-reduce of the gradients: every process sends and receives 2 (W - 1) / W of them, in 2 (W - 1) messages."""
    return 2 * (world - 1) * (4 * PARAMETERS / world / bandwidth + link) if world > 1 else 0.0


def parallel(devices: Mapping[str, tuple[Costs, int]]) -> list[dict[str, Any]]:
    """Seconds of a training step and efficiency by devices, the batch divided among them, and a batch on each.

    The attack needs no message: its gradients are of images. Messages are not hidden behind the backward pass.
    """
    found = []
    for device, (costs, _) in devices.items():
        pace = costs.steps["apgd"]
        for network, bandwidth in NETWORKS.items():
            for divided in (True, False):
                one = (STEPS + 1) * (pace.batch + pace.row * BATCH)
                points = []
                for world in (2**k for k in range(11)):
                    if divided and world > BATCH:
                        break
                    rows = BATCH / world if divided else BATCH
                    computing = (STEPS + 1) * (pace.batch + pace.row * rows)
                    messages = reduced(world, bandwidth, costs.link)
                    ideal = one / world if divided else one
                    points.append(
                        {"devices": world, "computing": computing, "messages": messages,
                         "efficiency": ideal / (computing + messages)}
                    )  # fmt: skip
                found.append({"device": device, "network": network, "divided": divided, "points": points})
    return found
