"""PreAct ResNet-18 for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.registry import register
from holdfast.nets.normalise import in_front


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut leaves after the first ReLU."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        around = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + around


@register
class PreActResNet18(nn.Module):
    """PreAct ResNet-18, the usual net of adversarial training on CIFAR-10: 11.2 million parameters.

    Source: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", ECCV 2016, in the form of Rice, Wong,
    Kolter, "Overfitting in adversarially robust deep learning", ICML 2020, whose parameter names it keeps.

    Args:
        channels: colour channels of the images.
        classes: number of logits.
        widths: channels of each group of blocks; all but the first group halve the image.
        blocks: blocks in each group.
        mean, std: normalisation inside the net; None for none.

    Images (N, channels, H, W) in [0,1] of any size -> logits (N, classes).
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = in_front(mean, std)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.groups = len(widths)
        inside = widths[0]
        for group, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            layers: list[nn.Module] = []
            for block in range(number):
                layers.append(PreActBlock(inside, width, stride=2 if group and block == 0 else 1))
                inside = width
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))  # the published state dicts' names
        self.bn = nn.BatchNorm2d(inside)
        self.linear = nn.Linear(inside, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(self.normalise(images))
        for group in range(self.groups):
            x = self.get_submodule(f"layer{group + 1}")(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))
