"""Other views of a classifier, for models whose plain output a search should not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.meter import Classifier


@dataclass(frozen=True)
class Logarithm:
    """A classifier whose outputs are probabilities, as one whose outputs are logits: their logarithm.

    The prediction is the same. Losses on probabilities are flat where a softmax is saturated; on logarithms they are not,
    down to the smallest number of the dtype.
    """

    classifier: Classifier

    def __call__(self, x: Tensor) -> Tensor:
        probabilities = self.classifier(x)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


@dataclass(frozen=True)
class Expectation:
    """A randomised classifier, as the mean of its logits over ``draws`` evaluations of each image.

    Its gradient is the expectation's (EOT: Athalye et al., "Synthesizing robust adversarial examples", ICML 2018), and its
    prediction is that of the mean, so that no sample counts as fooled because of one lucky draw. Draws come from the model's
    own generator.
    """

    classifier: Classifier
    draws: int

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.classifier(x.repeat_interleave(self.draws, 0))
        return logits.view(len(x), self.draws, -1).mean(1)
