"""Rotation and translation beside Foolbox, where it is installed: the same net, images and grid."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_apgd_reference import trained
from test_peers import peer

from holdfast.attacks.spatial_gradient import SpatialGradient
from holdfast.attacks.spatial_grid import SpatialGrid
from holdfast.threats.spatial import SHIFT, Spatial

EPS = 12


@pytest.mark.parametrize("attack", [SpatialGrid(angles=7, shifts=5), SpatialGradient()], ids=lambda a: type(a).__name__)
def test_never_weaker_than_foolbox(attack):
    foolbox = peer("foolbox")
    net, x, y = trained()
    net, x = net.float(), x.float()
    try:
        # Foolbox moves an image of W pixels by (W - 1) / W of the pixels that it is given.
        width = x.shape[3]
        theirs = foolbox.attacks.SpatialAttack(
            max_translation=SHIFT * EPS * width * width / (width - 1),
            max_rotation=EPS,
            num_translations=5,
            num_rotations=7,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points = theirs(foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y)[0]
        ours = attack(net, x, y, threat=Spatial(EPS))
        fooled = int((net(points).argmax(1) != y).sum())
        assert torch.equal(ours.fooled, net(ours.x).argmax(1) != y)
        assert 0 < fooled <= int(ours.fooled.sum())
        print(f"fooled of {len(x)}: holdfast {int(ours.fooled.sum())}, foolbox {fooled}")
    finally:
        net.double()
