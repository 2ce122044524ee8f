"""Small nets on images of one line, trained by the library itself: what the theories train."""

from __future__ import annotations

from torch import Tensor, nn

from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.models.load import build
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe


class Perceptron(nn.Module):
    """Images (n, 1, 1, inputs) in [0, 1] -> two logits, through ``depth`` layers of ``hidden`` units.

    It begins by stretching [0, 1] to [-half, half].
    """

    def __init__(self, inputs: int, hidden: int, half: float, depth: int = 1) -> None:
        super().__init__()
        self.reach = half
        layers: list[nn.Module] = [nn.Flatten()]
        for before in (inputs, *[hidden] * (depth - 1)):
            layers += [nn.Linear(before, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((2 * x - 1) * self.reach)


def trained(
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    hidden: int,
    half: float,
    depth: int = 1,
    epochs: int,
    steps: int,
    lr: float,
    warm_up: float,
    seed: int,
) -> Perceptron:
    """A net of the images' dtype: trained as usual where the radius is 0, else on PGD of so many steps inside Linf.

    Args:
        images: (n, 1, 1, inputs) in [0, 1]; ``labels``: (n,) int64, 0 or 1.
        radius: in the units of the images.
        hidden, half, depth: of the `Perceptron`.
        epochs, lr, warm_up, seed: of the `Recipe`.
    """
    options = {"inputs": images.shape[-1], "hidden": hidden, "half": half, "depth": depth}
    net = build(f"{__name__}:Perceptron", shape=tuple(images.shape[1:]), classes=2, options=options, seed=seed)
    assert isinstance(net, Perceptron)
    net.to(images.dtype)
    objective = Adversarial(PGD(steps=steps)) if radius else Standard()
    recipe = Recipe(objective, Linf(radius), epochs=epochs, lr=lr, warm_up=warm_up, seed=seed)
    fit(net, from_pair(images, labels, class_names=("0", "1")), recipe)
    return net
