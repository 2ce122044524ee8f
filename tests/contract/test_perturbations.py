"""The contract of perturbations, for every registered perturbation, variant, difficulty and number of channels."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadValue
from holdfast.perturbations.perturbation import Perturbation, draw_keys

NAMES = registry.names("perturbation")
SIZES = {"32": (32, 32), "64": (64, 70), "224": (120, 112)}


def perturbation(name: str) -> Perturbation:
    return registry.load("perturbation", name)()


@cache
def pictures(channels: int, size: tuple[int, int], count: int = 3) -> Tensor:
    """Smooth ramps, stripes and noise, some of it at the ends of the range."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    waves = torch.stack([torch.sin(6 * (index + 1) * rows + 4 * columns) for index in range(channels)])
    rough = torch.rand(count, channels, *size, generator=generator)
    mixed = (waves * 0.5 + 0.5) * 0.7 + rough * 0.5 - 0.1
    mixed[0, :, :4] = 0
    mixed[0, :, 4:8] = 1
    return (mixed.clamp(0, 1) * 255).round().to(torch.uint8)


def perturbed(
    name: str,
    x: Tensor,
    *,
    difficulty: int = 1,
    variant: str | None = None,
    ids: list[int] | None = None,
    seed: int = 0,
) -> Tensor:
    numbers = torch.tensor(ids if ids is not None else range(len(x)), dtype=torch.int64)
    return perturbation(name)(x, draw_keys(seed, name, numbers), difficulty=difficulty, variant=variant)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", list(SIZES))
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_effect(name: str, variant: str, channels: int) -> None:
    x = pictures(channels, SIZES[variant])[:2]
    before = x.clone()
    out = perturbed(name, x, variant=variant)
    levels = perturbation(name).table[variant]
    assert out.shape == (2, levels[0][0], *x.shape[1:]) and out.dtype == torch.uint8 and out.device == x.device
    assert torch.equal(x, before)
    changed = (out != x[:, None]).flatten(2).any(2)
    assert changed.float().mean() > 0.9  # one frame at most is the image itself
    moved = (out[:, 1:] != out[:, :-1]).flatten(2).any(2)
    assert moved.float().mean() > 0.9  # motion blur at 2 degrees to either side of an axis is the same
    if perturbation(name).noise:
        assert torch.equal(out[:, 0], x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", list(SIZES))
def test_an_image_is_the_same_alone_and_in_any_batch(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(3, SIZES[variant])
    whole = perturbed(name, x)
    assert torch.equal(whole[[2, 0]], perturbed(name, x[[2, 0]], ids=[2, 0]))
    monkeypatch.setattr("holdfast.perturbations.perturbation._AT_ONCE", 1)
    assert torch.equal(whole, perturbed(name, x))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_and_the_id_decide_the_draws(name: str) -> None:
    x = pictures(3, (32, 32))[1:2].repeat(2, 1, 1, 1)
    first, again, other = perturbed(name, x), perturbed(name, x), perturbed(name, x, seed=1)
    assert torch.equal(first, again)
    drawn = perturbation(name).draw(draw_keys(0, name, torch.arange(2)), (3, 32, 32), perturbation(name).table["32"][0])
    alike = not drawn
    assert torch.equal(first[0], first[1]) == alike and torch.equal(first, other) == alike


@pytest.mark.parametrize("name", [name for name in NAMES if perturbation(name).noise])
def test_harder_noises_are_stronger(name: str) -> None:
    for variant, size in SIZES.items():
        x = pictures(3, size)[1:2]
        apart = [
            (perturbed(name, x, difficulty=level, variant=variant).float() - x[:, None].float()).abs().mean()
            for level in (1, 2, 3)
        ]
        assert apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize("name", NAMES)
def test_small_flat_and_empty_images(name: str) -> None:
    for size in ((8, 8), (28, 28), (33, 47)):
        flat = torch.cat([torch.full((1, 1, *size), level, dtype=torch.uint8) for level in (0, 128, 255)])
        out = perturbed(name, flat)
        assert out.shape[2:] == flat.shape[1:] and len(out) == 3
    assert perturbed(name, torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape[2:] == (3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_untouched_and_the_tables_are_whole(name: str) -> None:
    before = torch.get_rng_state()
    perturbed(name, pictures(3, (32, 32)))
    assert torch.equal(before, torch.get_rng_state())
    kind = registry.load("perturbation", name)
    assert set(kind.table) == set(SIZES)
    assert all(len(levels) == (3 if kind.noise else 1) for levels in kind.table.values())
    assert all(frames > 2 for levels in kind.table.values() for frames, *_ in levels)
    assert kind.standing in ("test", "extra")
    assert kind.__name__.lower() == name.replace("_", "") and "Source:" in kind.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused(name: str) -> None:
    x = pictures(3, (32, 32))
    keys = draw_keys(0, name, torch.arange(len(x)))
    with pytest.raises(BadValue, match="difficulty is 4"):
        perturbation(name)(x, keys, difficulty=4)
    with pytest.raises(BadValue, match="variant '224' is for images of about 224"):
        perturbation(name)(x, keys, variant="224")
    with pytest.raises(BadData, match="float32"):
        perturbation(name)(x.float(), keys)
