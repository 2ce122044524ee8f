"""The ResNet of the mixup-inference paper for CIFAR: three stages of five bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.registry import register
from holdfast.nets.normalise import in_front


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 pixels, each followed by its batch norm; a changed shape takes a 1x1 shortcut."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv3 = nn.Conv2d(outside, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.shortcut is None else self.shortcut(x)))


@register
class BottleneckResNet50(nn.Module):
    """The "ResNet-50" of mixup inference: a 5x5 stem, three stages of bottlenecks that do not widen, 4.8 million parameters.

    Source: what the authors' code of Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), trains on CIFAR-10 and CIFAR-100. It
    is not the ResNet-50 of He et al. (CVPR 2016), whose four stages of 3, 4, 6 and 3 bottlenecks widen fourfold.

    Args:
        channels: colour channels of the images.
        classes: number of logits.
        widths: channels of each stage; all but the first halve the image.
        blocks: bottlenecks in each stage.
        mean, std: normalisation inside the net; None for none (the authors' images are in [-1, 1]: 0.5 each).

    Images (N, channels, H, W) in [0,1] of any size -> logits (N, classes).
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (64, 128, 256),
        blocks: Sequence[int] = (5, 5, 5),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = in_front(mean, std)
        self.conv = nn.Conv2d(channels, widths[0], 5, padding=2, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        inside = widths[0]
        for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(number):
                layers.append(Bottleneck(inside, width, stride=2 if stage and block == 0 else 1))
                inside = width
        self.stages = nn.Sequential(*layers)
        self.linear = nn.Linear(inside, classes)
        for module in self.modules():  # as in the source
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn(self.conv(self.normalise(images)))))
        return self.linear(x.mean((2, 3)))
