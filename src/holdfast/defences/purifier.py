"""Purification: a function of the user's cleans the image before the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from holdfast.defences.options import whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register

Purify = Callable[..., Tensor]
"""``purify(x)``, or where it draws ``purify(x, key)``: images (R, C, H, W) in [0, 1] -> images for the model, (R, ...).

``key`` is (R,) int64; draws from `holdfast.keys` by it, one row after the other, are the same in any batch.
"""

BACKWARDS = ("true", "straight_through")


@register
@dataclass(frozen=True)
class Purifier(ViewDefence):
    """The model sees what a given function makes of the image: a denoiser, an autoencoder, a diffusion model.

    Source: the interface of all purifiers, for example Nie et al., "Diffusion models for adversarial purification" (ICML
    2022), where gradients through the whole purification and draws that are averaged over took most of the robustness
    claimed for it (Lee and Kim, "Robust evaluation of diffusion-based adversarial purification", ICCV 2023).

    Where the derivative of a long purification does not fit in memory it can checkpoint its steps
    (``torch.utils.checkpoint``).

    Args:
        purify: the function (see `Purify`). It is used as it is, not copied: leave its weights alone while it is here.
        backward: how gradients pass through it, the first for the defended classifier itself: ``true`` by its derivative,
            ``straight_through`` as if it were the identity. For one without a derivative give ``("straight_through",)``.
        keyed_draws: 0 for a function that draws nothing, ``purify(x)``. Otherwise it is given keys, ``purify(x, key)``, and
            probabilities are averaged over so many draws.
        seed: of all draws.
    """

    purify: Purify
    backward: tuple[str, ...] = BACKWARDS
    keyed_draws: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "backward", tuple(self.backward))
        if (
            not self.backward
            or not set(self.backward) <= set(BACKWARDS)
            or len(set(self.backward)) < len(self.backward)
        ):
            raise BadValue(f"backward is {self.backward!r}", hint=f"give one or both of {BACKWARDS}")
        whole("keyed_draws", self.keyed_draws, 0)

    @property
    def num_draws(self) -> int:
        return max(1, self.keyed_draws)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        return self.purify(x, key) if self.keyed_draws else self.purify(x)
