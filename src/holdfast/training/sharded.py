"""Nets too large to be trained whole on one device: weights, gradients and the optimiser's state are divided (FSDP2).

While a net is searched it is whole on every device: a search takes as many passes as it needs, in each process another
number, and a process that waits for a piece of a layer waits for ever where the others make no pass. The passes to the
weights, of which all processes make as many, gather one piece of the net at a time. Importing this takes most of a second:
only who divides a net does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from holdfast.training.team import Team

PIECES = 8
"""A module is divided as one piece if it has no more than that part of all weights; else its submodules are."""


def shard(net: nn.Module, team: Team) -> None:
    """Divides the parameters of ``net`` among the processes, in place; buffers stay whole.

    Gradients are then the sums of those of all processes, each of which takes its backward pass through the same modules.
    """
    mesh = DeviceMesh.from_group(team.group, next(net.parameters()).device.type)
    most = sum(each.numel() for each in net.parameters()) / PIECES
    pieces = [*_pieces(net, most), net]
    for piece in pieces:
        fully_shard(piece, mesh=mesh)
    for piece in pieces:
        assert isinstance(piece, FSDPModule)
        piece.set_gradient_divide_factor(1.0)


@contextmanager
def gathered(net: nn.Module) -> Iterator[None]:
    """Within, the net is whole in every process, each of which may evaluate it as often as it likes."""
    pieces = [each for each in net.modules() if isinstance(each, FSDPModule)]
    try:
        for piece in pieces:
            piece.unshard()
            _keep_whole(piece, True)
        yield
    finally:
        for piece in pieces:
            _keep_whole(piece, False)
            piece.reshard()


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor undivided; what was divided comes to the CPU, where there is room. All processes call this."""
    return {name: value.full_tensor().cpu() if isinstance(value, DTensor) else value for name, value in state.items()}


def as_divided(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `whole`: this process's piece of every tensor that is divided in ``like``."""
    found = dict(state)
    for name, value in like.items():
        if isinstance(value, DTensor):
            given = state[name].to(value.device)
            found[name] = distribute_tensor(given, value.device_mesh, value.placements, src_data_rank=None)
    return found


def _keep_whole(piece: FSDPModule, yes: bool) -> None:
    piece.set_reshard_after_forward(not yes, recurse=False)
    piece.set_reshard_after_backward(not yes, recurse=False)


def _pieces(module: nn.Module, most: float) -> Iterator[nn.Module]:
    """The largest submodules that have no more weights than that, and a forward pass."""
    for child in module.children():
        count = sum(each.numel() for each in child.parameters())
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)) or (count > most and any(child.children())):
            yield from _pieces(child, most)
        elif count:
            yield child
