"""The contract of corruptions, for every registered corruption, variant, severity and number of channels."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from holdfast.corruptions.corruption import SEVERITIES, Corruption, draw_keys
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadValue

NAMES = registry.names("corruption")
SIZES = {"32": (32, 32), "64": (64, 64), "224": (112, 120)}


def corruption(name: str) -> Corruption:
    return registry.load("corruption", name)()


@cache
def pictures(channels: int, size: tuple[int, int], count: int = 5) -> Tensor:
    """Smooth ramps, stripes and noise, some of it at the ends of the range."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    waves = torch.stack([torch.sin(6 * (index + 1) * rows + 4 * columns) for index in range(channels)])
    rough = torch.rand(count, channels, *size, generator=generator)
    mixed = (waves * 0.5 + 0.5) * 0.7 + rough * 0.5 - 0.1
    mixed[0, :, :4] = 0
    mixed[0, :, 4:8] = 1
    return (mixed.clamp(0, 1) * 255).round().to(torch.uint8)


def corrupted(name: str, x: Tensor, severity: int, *, ids: list[int] | None = None, seed: int = 0) -> Tensor:
    numbers = torch.tensor(ids if ids is not None else range(len(x)), dtype=torch.int64)
    return corruption(name)(x, severity, draw_keys(seed, name, severity, numbers))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", list(SIZES))
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_effect(name: str, variant: str, channels: int) -> None:
    x = pictures(channels, SIZES[variant])
    before = x.clone()
    for severity in SEVERITIES:
        out = corrupted(name, x, severity)
        assert out.shape == x.shape and out.dtype == torch.uint8 and out.device == x.device
        assert torch.equal(out, x) == (corruption(name).colour_only and channels == 1), f"at severity {severity}"
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", list(SIZES))
def test_an_image_is_the_same_alone_and_in_any_batch(name: str, variant: str) -> None:
    x = pictures(3, SIZES[variant])
    for severity in (1, 5):
        whole = corrupted(name, x, severity)
        alone = torch.cat([corrupted(name, x[i : i + 1], severity, ids=[i]) for i in range(len(x))])
        shuffled = corrupted(name, x[[3, 0, 4]], severity, ids=[3, 0, 4])
        assert torch.equal(whole, alone) and torch.equal(whole[[3, 0, 4]], shuffled)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_and_the_id_decide_the_draws(name: str) -> None:
    x = pictures(3, (32, 32))[1:2].repeat(3, 1, 1, 1)
    first, again, other = corrupted(name, x, 3), corrupted(name, x, 3), corrupted(name, x, 3, seed=1)
    assert torch.equal(first, again)
    drawn = corruption(name).draw(draw_keys(0, name, 3, torch.arange(3)), (3, 32, 32), corruption(name).table["32"][2])
    if drawn:
        assert not torch.equal(first[0], first[1]) and not torch.equal(first, other)
    else:
        assert torch.equal(first[0], first[1]) and torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_small_flat_and_empty_images(name: str) -> None:
    for size in ((8, 8), (28, 28), (33, 47)):
        flat = torch.cat([torch.full((1, 1, *size), level, dtype=torch.uint8) for level in (0, 128, 255)])
        for severity in (1, 3, 5):
            assert corrupted(name, flat, severity).shape == flat.shape
    assert corrupted(name, torch.zeros(0, 3, 32, 32, dtype=torch.uint8), 1).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_untouched_and_the_tables_are_whole(name: str) -> None:
    before = torch.get_rng_state()
    corrupted(name, pictures(3, (32, 32)), 2)
    assert torch.equal(before, torch.get_rng_state())
    kind = registry.load("corruption", name)
    assert set(kind.table) == set(SIZES) and all(len(constants) == 5 for constants in kind.table.values())
    assert kind.family in ("noise", "blur", "weather", "digital")
    assert kind.standing in ("test", "validation", "held_out")
    assert kind.__name__.lower() == name.replace("_", "") and "Source:" in kind.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused(name: str) -> None:
    x = pictures(3, (32, 32))
    keys = draw_keys(0, name, 1, torch.arange(len(x)))
    with pytest.raises(BadValue, match="severity is 6"):
        corruption(name)(x, 6, keys)
    with pytest.raises(BadValue, match="variant '224' is for images of about 224"):
        corruption(name)(x, 1, keys, variant="224")
    with pytest.raises(BadData, match="float32"):
        corruption(name)(x.float(), 1, keys)
