"""A classifier of one's own, as `holdfast audit` takes it: a module with a factory, and weights beside it.

    python examples/own_model.py                     # trains for a few seconds, writes runs/own_model.safetensors
    holdfast audit --model examples.own_model:factory --weights runs/own_model.safetensors \
        --data digits --threat linf --eps 8/255 --out runs/own

Run both in the folder above this one: `examples.own_model` is looked up from the current folder.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.31, 0.32  # of the training digits


class OwnNet(nn.Module):
    """Grey images (N, 1, 32, 32) in [0, 1] -> logits (N, 10). The normalisation is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 8 * 8, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images - MEAN) / STD)  # logits, no softmax


def factory() -> nn.Module:
    """The bare net. `--weights` fills it."""
    return OwnNet()


def trained(epochs: int = 5) -> nn.Module:
    """The net, trained on the 1,297 training digits: a factory that needs no weights file (examples/audit.toml)."""
    from holdfast.data.load import load

    train = load("digits:train")
    batch = train.take(train.ids)
    x, y = torch.from_numpy(batch.images).float() / 255, torch.from_numpy(batch.labels)
    torch.manual_seed(0)
    net = OwnNet().train()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimiser.step()
    return net.eval()


if __name__ == "__main__":
    from safetensors.torch import save_file

    path = Path("runs/own_model.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(trained().state_dict(), path)
    print(f"weights: {path}")
