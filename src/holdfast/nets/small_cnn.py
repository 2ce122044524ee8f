"""The small convolutional net of the adversarial-training literature on MNIST."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.nets.normalise import in_front


@register
class SmallCNN(nn.Module):
    """Two strided convolutions and two linear layers: trains on digits in seconds on a CPU.

    Source: the net of Wong, Rice, Kolter, "Fast is better than free", ICLR 2020 (which is ``channels=1, size=28``).
    Without batch norm and dropout, so that training and evaluation see one and the same function.

    Args:
        channels: colour channels of the images.
        classes: number of logits.
        size: height and width of the images, at least 8.
        width: channels of the first convolution; the second has twice as many.
        hidden: width of the linear layer between.
        mean, std: normalisation inside the net; None for none.

    Images (N, channels, size, size) in [0,1] -> logits (N, classes).

    Raises:
        BadValue: ``size`` below 8.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 10,
        size: int = 32,
        width: int = 16,
        hidden: int = 100,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if size < 8:
            raise BadValue(f"size is {size}; small_cnn takes images of at least 8 pixels", hint="give size=32")
        self.normalise = in_front(mean, std)
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        side = size // 2 // 2  # each convolution halves, rounding down
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * width * side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.normalise(images)))
