"""Wide ResNet-28-10 for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.nets.normalise import in_front


class WideBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a changed width takes a 1x1 shortcut after the ReLU."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.convShortcut: nn.Module | None = None  # the published state dicts' name
        if inside != outside:
            self.convShortcut = nn.Conv2d(inside, outside, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        around = x if self.convShortcut is None else self.convShortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + around


class WideGroup(nn.Module):
    """Blocks of one width; the first of them may halve the image."""

    def __init__(self, inside: int, outside: int, *, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            WideBlock(inside, outside, stride=stride),
            *(WideBlock(outside, outside, stride=1) for _ in range(blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@register
class WideResNet28x10(nn.Module):
    """Wide ResNet-28-10, the large net of the CIFAR-10 leaderboards: 36.5 million parameters.

    Source: Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016, without dropout; parameter names as in TRADES
    (Zhang et al., ICML 2019).

    Args:
        channels: colour channels of the images.
        classes: number of logits.
        depth: 6 n + 4 layers, n blocks in each of three groups.
        width: factor on the group widths 16, 32, 64.
        mean, std: normalisation inside the net; None for none.

    Images (N, channels, H, W) in [0,1] of any size -> logits (N, classes).

    Raises:
        BadValue: ``depth`` is not 6 n + 4.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 10,
        depth: int = 28,
        width: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise BadValue(f"depth is {depth}; a Wide ResNet has 6 n + 4 layers", hint="give depth=28, 34 or 70")
        blocks = (depth - 4) // 6
        self.normalise = in_front(mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = WideGroup(16, 16 * width, blocks=blocks, stride=1)
        self.block2 = WideGroup(16 * width, 32 * width, blocks=blocks, stride=2)
        self.block3 = WideGroup(32 * width, 64 * width, blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():  # He et al.'s initialisation, as in the source
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(self.normalise(images)))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
