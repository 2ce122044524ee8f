"""What is done to make searches faster that may change their last bits; verdicts stay the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from holdfast.ascent.backward import Backward, Through
from holdfast.ascent.compiled import MODES, Compiled
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier
from holdfast.ascent.rounded import Lowered, departure, lowered
from holdfast.ascent.search_copy import TOLERANCE, answer, short
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick

if TYPE_CHECKING:
    from holdfast.ascent.attack import Attack

PRECISIONS: dict[str, torch.dtype | None] = {"full": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What a search's copy of the model may compute in; ``full`` is the model's own type."""


@dataclass(frozen=True)
class Acceleration:
    """What is asked for.

    Args:
        precision: a key of `PRECISIONS`.
        compile: ``none``, or a key of `holdfast.ascent.compiled.MODES`.

    Raises:
        UnknownName: another word.
    """

    precision: str = "full"
    compile: str = "none"

    def __post_init__(self) -> None:
        pick("precision", self.precision, PRECISIONS)
        pick("compile", self.compile, {"none": None, **MODES})

    def check(self, device: torch.device) -> None:
        """Refuses what this device cannot do, or only slowly. Raises BadValue."""
        if self.precision == "float16" and device.type == "cpu":
            raise BadValue(
                "precision is 'float16', which a CPU computes more slowly than float32", hint="give bfloat16"
            )
        if self.compile == "graph" and device.type != "cuda":
            raise BadValue(f"compile is 'graph' on {device.type}; CUDA graphs need CUDA", hint="give default")


@dataclass(frozen=True)
class Searched:
    """What searches evaluate.

    Args:
        plain: the model's search copy.
        quick: the same, accelerated.
        given: what was done of what was asked for.
        reasons: why not the rest.
    """

    plain: Classifier
    quick: Classifier
    given: Acceleration
    reasons: tuple[str, ...]

    def classifier(self, attack: Attack, backward: Backward | None) -> Classifier:
        """What an attack evaluates.

        Two kinds keep the model's own precision. An attack of the goal ``minimal`` hands in a point just beyond the
        boundary, which is elsewhere in another precision. One without gradients goes by differences of the loss that
        rounding hides: on a net with masked gradients (MNIST, fast FGSM) the plan fast broke 7 of 200 images less where
        Square was in bfloat16, too. Another backward pass watches the calls that a forward makes, of which a compiled one
        makes none: it keeps the plain copy.
        """
        if backward is not None:
            return Through(self.plain, backward)
        exact = attack.goal == "minimal" or attack.needs != "gradients"
        return self.plain if exact and self.given.precision != "full" else self.quick


def accelerated(
    module: Classifier,
    x: Tensor,
    asked: Acceleration,
    *,
    size: int,
    view: Callable[[Classifier], Classifier] = lambda classifier: classifier,
) -> Searched:
    """A search copy made faster, as far as its answers allow.

    Args:
        module: the search copy (`holdfast.ascent.search_copy`): images (N,C,H,W) -> (N,K).
        x: a few dozen images to compare on.
        asked: what to do.
        size: how many images a compiled batch has.
        view: what makes logits of its outputs.
    """
    plain, reasons = view(module), []
    quick, precision, computed = plain, "full", x.dtype
    dtype = PRECISIONS[asked.precision]
    if dtype is not None and dtype != x.dtype and len(x):
        low = lowered(module, x, dtype) if isinstance(module, nn.Module) else Lowered(None, "a function has no weights")
        if low.module is None:
            reasons.append(low.reason)
        else:
            quick, precision, computed = view(low.module), asked.precision, dtype
    compile = "none"
    if asked.compile != "none" and len(x):
        made = _compiled(quick, module, x, size, asked.compile, TOLERANCE.get(computed, 0.0))
        if isinstance(made, str):
            reasons.append(made)
        else:
            quick, compile = made, asked.compile
    return Searched(plain, quick, Acceleration(precision, compile), tuple(reasons))


def _compiled(
    classifier: Classifier, module: Classifier, x: Tensor, size: int, mode: str, tolerance: float
) -> Compiled | str:
    """The classifier compiled, with and without a gradient; or why not."""
    shown = x[torch.arange(size // 2 + 1, device=x.device) % len(x)]
    made = Compiled(classifier, size, mode)
    try:
        with frozen(module), rng_kept(x.device):
            changed = departure(answer(classifier, shown), answer(made, shown), tolerance)
            with torch.no_grad():
                made(shown)
    except Exception as error:  # of torch.compile, of the compiler that it calls, or of the user's code under it
        return f"torch.compile raises {short(error)}"
    made.rows = made.padding = 0
    return f"torch.compile changed {changed}" if changed else made
