"""What a layer of a net says about images, and images that excite it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.adam import adam
from holdfast.foundation.errors import BadModel, UnknownName

RATE, JITTER = 0.05, 1
"""Of `exciting`: the length of a step in every pixel value, and by how many pixels an image is moved about at most."""


@dataclass(frozen=True)
class Place:
    """What a module of a net returns, or what ``enters`` it: the module's ``name`` in the net."""

    name: str
    enters: bool = False

    def __str__(self) -> str:
        return f"what enters {self.name}" if self.enters else self.name


def place(module: nn.Module, x: Tensor, name: str | None = None) -> Place:
    """The place of that name; unless given, what enters the last layer with a matrix of weights that is called.

    Args:
        module: the net.
        x: an image, (1, C, H, W), to see which layers are called.
        name: of a module in it.

    Raises:
        UnknownName: no module has that name.
        BadModel: no layer has weights.
    """
    if name is not None:
        names = [each for each, _ in module.named_modules() if each]
        if name not in names:
            raise UnknownName.among("layer", name, names)
        return Place(name)
    called: list[str] = []
    taps = [
        layer.register_forward_hook(lambda *_, each=each: called.append(each))
        for each, layer in module.named_modules()
        if each and any(weight.dim() > 1 for weight in layer.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for tap in taps:
            tap.remove()
    if not called:
        raise BadModel("no layer of the net has weights", hint="name a layer")
    return Place(called[-1], enters=True)


@contextmanager
def tapped(module: nn.Module, at: Place) -> Iterator[Callable[[], Tensor]]:
    """A function that reads what passed the place last, (n, D), with its graph. Raises BadModel where it is no tensor."""
    last: list[Any] = []

    def keep(value: Any) -> None:  # a copy: the next layer may write over it
        last[:] = [value.clone() if isinstance(value, Tensor) else value]

    def read() -> Tensor:
        if not last or not isinstance(last[0], Tensor):
            raise BadModel(f"{at} is no tensor, or is not called", hint="name another layer")
        return last[0].flatten(1)

    layer = module.get_submodule(at.name)
    if at.enters:
        tap = layer.register_forward_pre_hook(lambda _, given: keep(given[0]))
    else:
        tap = layer.register_forward_hook(lambda _, __, out: keep(out))
    try:
        yield read
    finally:
        tap.remove()


def exciting(
    module: nn.Module, at: Place, directions: Tensor, start: Tensor, *, steps: int = 60, seed: int = 0
) -> Tensor:
    """Images (M, C, H, W) in [0, 1] on which <activation, direction> is large, for each of (M, D) directions.

    Adam in the pixels, each step with the image moved about by up to a pixel, round its edges, so that what is found does
    not hang on single pixels.

    Source: Erhan et al., "Visualizing higher-layer features of a deep network" (2009); jitter: Mordvintsev, Olah and Tyka,
    "Inceptionism" (2015).

    Args:
        module: the net, frozen.
        at: the layer.
        directions: of it.
        start: the image that all begin at, (C, H, W).
        steps: how many.
        seed: of the moves.
    """
    x = start.expand(len(directions), *start.shape).clone()
    first = second = torch.zeros_like(x)
    key = keys.fold(keys.root(seed), keys.number("exciting"))[None]
    moves = (keys.integers(key, (steps, 2), 2 * JITTER + 1)[0] - JITTER).tolist()
    with tapped(module, at) as read:
        for count, move in enumerate(moves):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                module(point.roll(move, (2, 3)))
                (grad,) = torch.autograd.grad((read() * directions).sum(), point)
            tick = torch.full((len(x),), count, device=x.device)
            onwards, first, second = adam(first, second, grad, tick, steps)
            x = (x + RATE * onwards).clamp(0, 1)
    return x
