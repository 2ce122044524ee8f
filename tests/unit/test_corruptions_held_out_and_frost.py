"""Frost with and without pictures, what grey images and dry lenses do, and how strong the held-out corruptions are."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from holdfast import keys
from holdfast.corruptions.corruption import SEVERITIES, Corruption, draw_keys
from holdfast.corruptions.frost import Frost
from holdfast.corruptions.saturate import Saturate
from holdfast.corruptions.spatter import Spatter
from holdfast.foundation import registry

HELD_OUT = ("blue_noise", "checkerboard_cutout", "inverse_sparkles", "ripple")


def images(count: int, channels: int = 3, side: int = 32) -> Tensor:
    small = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(small, (side, side), mode="bicubic")
    return (wide * 255).clamp(0, 255).to(torch.uint8)


def numbers(name: str, severity: int, count: int) -> Tensor:
    return draw_keys(0, name, severity, torch.arange(count))


def flat(level: int, *, height: int = 200, width: int = 300) -> Tensor:
    return torch.full((3, height, width), level, dtype=torch.uint8)


def test_frost_takes_each_of_the_first_five_pictures_and_never_the_sixth() -> None:
    frost = Frost(pictures=tuple(flat(level) for level in (10, 20, 30, 40, 50, 200)))
    x = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    out = frost(x, 2, numbers("frost", 2, 300))
    assert set(out.unique().tolist()) == {3, 6, 9, 12, 15}
    share = torch.tensor([float((out[:, 0, 0, 0] == 3 * i).float().mean()) for i in range(1, 6)])
    assert (share - 0.2).abs().max() < 0.1


def test_frost_is_cut_at_random_places_of_the_scaled_picture() -> None:
    ramp = torch.arange(256).repeat_interleave(2)[None, None].expand(3, 400, 512).to(torch.uint8)
    frost = Frost(pictures=(ramp,))
    x = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    drawn = frost.draw(numbers("frost", 1, 64), (3, 32, 32), (1.0, 1.0, 0.2))
    out = frost.apply(x, (1.0, 1.0, 0.2), drawn)
    assert (out[:, 0, 0, 1:].int() - out[:, 0, 0, :-1].int()).unique().tolist() in ([2, 3], [2], [3])
    assert int(drawn["row"].max()) < 80 - 32 and int(drawn["column"].max()) < 102 - 32
    assert len(drawn["column"].unique()) > 20 and len(drawn["row"].unique()) > 15


def test_a_picture_smaller_than_the_image_is_enlarged() -> None:
    frost = Frost(pictures=(flat(100, height=20, width=90),))
    x = torch.zeros(4, 3, 120, 130, dtype=torch.uint8)
    assert (frost(x, 1, numbers("frost", 1, 4)) == 40).all()


def test_scaled_pictures_are_kept() -> None:
    frost = Frost(pictures=(flat(100), flat(90)))
    first = frost._fitting((3, 32, 32), 0.2, torch.device("cpu"))
    assert frost._fitting((3, 32, 32), 0.2, torch.device("cpu")) is first and first[0].shape == (3, 40, 60)
    assert frost._fitting((1, 32, 32), 0.2, torch.device("cpu"))[1].shape == (1, 40, 60)


def test_procedural_frost_is_about_as_light_and_rough_as_the_photographs() -> None:
    x = torch.zeros(48, 3, 32, 32, dtype=torch.uint8)
    frost = Frost()
    drawn = frost.draw(numbers("frost", 1, 48), (3, 32, 32), (1.0, 1.0, 0.2))
    out = frost.apply(x, (1.0, 1.0, 0.2), drawn).float()
    red, green, blue = out.mean((0, 2, 3)).tolist()
    assert red < green < blue and abs(green - 167) < 15
    assert 15 < float(out.mean(1).std((1, 2)).mean()) < 35
    assert float(out.mean((1, 2, 3)).std()) > 10


def test_grey_images_have_no_saturation() -> None:
    x = images(3, channels=1)
    for severity in SEVERITIES:
        assert torch.equal(Saturate()(x, severity, numbers("saturate", severity, 3)), x)


def test_a_grey_pixel_turns_red_only_where_saturation_is_added() -> None:
    x = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert torch.equal(Saturate().apply(x, (2.0, 0.0), {}), x)
    assert Saturate().apply(x, (2.0, 0.2), {})[0, :, 0, 0].tolist() == [100, 80, 80]


def test_a_dry_lens_changes_nothing() -> None:
    x = images(2)
    for severity in SEVERITIES:
        constants = Spatter.table["32"][severity - 1]
        assert torch.equal(Spatter().apply(x, constants, {"normal": torch.full((2, 32, 32), -5.0)}), x)


@pytest.mark.parametrize("name", HELD_OUT)
@pytest.mark.parametrize(("variant", "side"), [("32", 32), ("64", 64), ("224", 112)])
def test_held_out_corruptions_grow_with_severity(name: str, variant: str, side: int) -> None:
    corruption: Corruption = registry.load("corruption", name)()
    assert corruption.standing == "held_out"
    x = images(12, side=side)
    changes = []
    for constants in corruption.table[variant]:
        drawn = corruption.draw(keys.fold(keys.root(3), torch.arange(12)), tuple(x.shape[1:]), constants)  # the same
        changes.append(float((corruption.apply(x, constants, drawn).float() - x.float()).abs().mean()))
    assert all(later > earlier for earlier, later in pairwise(changes))
    assert 5 < changes[0] < 35 and 10 < changes[-1] < 70
