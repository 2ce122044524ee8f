"""Extra class: a net with a class for adversarial images says so itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.foundation.errors import BadModel
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class ExtraClass:
    """The net's last logit less the largest of the others, which alone are the classifier's.

    Source: Grosse et al., "On the (statistical) detection of adversarial examples" (2017); the net is what
    `holdfast.objectives.extra_class` trains. With the threshold 0 the net's own answer decides, as there. On a net without
    such a class the last one would be taken for it. It learns nothing from the clean images.
    """

    flat: ClassVar[str] = ""

    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        """As `Detector.fit`; BadModel also where a label is the last class."""
        core, outputs = prepared(module, x, y)

        largest = int(y.max())
        if outputs < max(3, largest + 2):
            raise BadModel(
                f"the model has {outputs} outputs, and a label is {largest}: none is an extra class",
                hint="train a net of one class more by the objective extra_class",
            )

        def judge(x: Tensor) -> Judged:
            logits = core(x)
            real = logits[:, :-1]
            return Judged(real, logits[:, -1] - real.amax(1))

        return Fixed(judge)
