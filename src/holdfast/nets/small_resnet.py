"""The small ResNet of experiments on CIFAR-sized images."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.registry import register
from holdfast.nets.normalise import in_front


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each followed by its batch norm; a changed shape takes a 1x1 shortcut with a norm of its own."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


@register
class SmallResNet(nn.Module):
    """Three stages of residual blocks, 16, 32 and 64 channels wide: trains on CIFAR-10 on a CPU.

    Every batch norm follows a convolution, so that all of them can be folded where the weights stand still, as they do
    while an attack searches.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2, of 6 ``blocks`` + 2
    layers (there 3 to 18 blocks). Departure: shortcuts between stages are 1x1 convolutions (their option B; on CIFAR
    they pad with zeros).

    Args:
        channels: colour channels of the images.
        classes: number of logits.
        width: channels of the first stage; each of the other two doubles them and halves the image.
        blocks: blocks in each stage.
        mean, std: normalisation inside the net; None for none.

    Images (N, channels, H, W) in [0,1] of any size -> logits (N, classes).
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 10,
        width: int = 16,
        blocks: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = in_front(mean, std)
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        inside = width
        for stage in range(3):
            for block in range(blocks):
                layers.append(ResBlock(inside, width << stage, stride=2 if stage and block == 0 else 1))
                inside = width << stage
        self.stages = nn.Sequential(*layers)
        self.linear = nn.Linear(inside, classes)
        for module in self.modules():  # He et al.'s initialisation, as in the source
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn(self.conv(self.normalise(images)))))
        return self.linear(x.mean((2, 3)))
