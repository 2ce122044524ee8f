"""TENT: a classifier that makes itself more certain of what it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.ascent.adam import DECAYS, FLOOR
from holdfast.ascent.meter import Classifier
from holdfast.defences.bn_adaptation import BNAdaptation, adapted_copy, batch_norms
from holdfast.defences.defence import Opening
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class Tent:
    """Batch norm by the test batch, and a step on its scales and shifts that lowers the entropy of the predictions.

    It learns on from batch to batch. Adam's moments are the customary ones (0.9, 0.999), without weight decay. As in the
    authors' code a batch is answered by the forward from which its own update is computed, so that the update serves the
    batches after it.

    Source: Wang et al., "Tent: fully test-time adaptation by entropy minimization" (ICLR 2021), and the authors' code for
    CIFAR-10-C, whose batches have 200 images.
    Departures: layers other than batch norm stay in eval mode, so that dropout is off; batch norms of all dimensions are
    adapted.

    Args:
        lr: the learning rate of Adam.
        steps: updates per batch; the last forward is the answer.
    """

    transductive: ClassVar[bool] = True

    lr: float = 1e-3
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise BadValue(f"lr is {self.lr}; it must be positive", hint="for example lr=0.001")
        if self.steps < 1:
            raise BadValue(f"steps is {self.steps}; at least one is needed", hint="steps=1, or BNAdaptation(prior=0)")

    def wrap(self, module: nn.Module) -> Classifier:
        return Tented(adapted_copy(module, prior=0), self)

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        """The defended classifier adapts to the attacker's own queries; ``statistics`` is what it is before the first."""
        statistics = BNAdaptation(prior=0).wrap(module)
        return Opening("core", module), Opening("statistics", statistics), Opening("adapting", self.wrap(module))


class Tented(nn.Module):
    """The classifier that learns while it is used.

    Its scales and shifts are never changed in place: a gradient can be taken through an answer after the update.
    """

    def __init__(self, core: nn.Module, tent: Tent) -> None:
        super().__init__()
        self.core = core
        self.tent = tent
        self.train(core.training)
        parameters = dict(core.named_parameters())
        names = [f"{name}.{part}" for name in batch_norms(core) for part in ("weight", "bias")]
        self.affine = {name: parameters[name].detach().clone() for name in names if name in parameters}
        if not self.affine:
            raise BadModel(
                "the model's batch norms have neither scales nor shifts, and TENT learns nothing else",
                hint="adapt its statistics alone: bn_adaptation",
            )
        self.moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in self.affine.items()}
        self.taken = 0

    def forward(self, x: Tensor) -> Tensor:
        asked = x.requires_grad and torch.is_grad_enabled()
        # Entered because the caller may have switched gradients off, which the update needs.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            for _ in range(self.tent.steps - 1):
                self._learn(x.detach())
            logits = self._learn(x if asked else x.detach())
        return logits if asked else logits.detach()

    def _learn(self, x: Tensor) -> Tensor:
        """The logits, and an update by them."""
        leaves = {name: value.requires_grad_() for name, value in self.affine.items()}
        logits = functional_call(self.core, leaves, (x,))
        if len(x):
            logarithms = logits.log_softmax(1)
            entropy = -(logarithms.exp() * logarithms).sum(1).mean()
            # The graph is kept where the caller will ask for the gradient of the logits by the images.
            found = torch.autograd.grad(entropy, list(leaves.values()), retain_graph=x.requires_grad, allow_unused=True)
            self._update(dict(zip(leaves, found)))
        return logits

    def _update(self, gradients: dict[str, Tensor | None]) -> None:
        """A step of Adam; a scale that took no part in the forward stays."""
        self.taken += 1
        a, b = DECAYS
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            first, second = (moment.lerp(new, 1 - decay) for moment, new, decay in
                             zip(self.moments[name], (gradient, gradient.square()), DECAYS))  # fmt: skip
            self.moments[name] = first, second
            step = first / (1 - a**self.taken) / ((second / (1 - b**self.taken)).sqrt() + FLOOR)
            self.affine[name] = self.affine[name].detach() - self.tent.lr * step

    def extra_repr(self) -> str:
        return repr(self.tent)
