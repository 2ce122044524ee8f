"""The training loop and the two first objectives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.objective import Examples
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training.batches import shifted
from holdfast.training.checkpoint import trained
from holdfast.training.loop import Epoch, fit
from holdfast.training.recipe import Recipe

OBJECTIVES = {"standard": Standard(), "adversarial": Adversarial(PGD(steps=2))}


def net(seed: int = 0) -> SmallCNN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallCNN(width=4, hidden=32)


def recipe(objective: str = "standard", **change: object) -> Recipe:
    settings = {"objective": OBJECTIVES[objective], "threat": Linf(0.1), "epochs": 2, "lr": 5e-3, "shift": 1}
    return Recipe(**{**settings, **change})


def some(n: int):
    source = load("digits:train")
    batch = source.take(source.ids[:n])
    return from_pair(batch.images, batch.labels)


def weights(module: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in module.state_dict().values()]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_recipe_gives_the_same_bits(objective: str) -> None:
    source = some(100)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second, other = net(), net(), net()
    fit(first, source, recipe(objective))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    fit(second, source, recipe(objective))
    fit(other, source, recipe(objective, seed=1))
    assert weights(first) == weights(second) and weights(first) != weights(other)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns_20_digits(objective: str) -> None:
    module, source = net(), some(20)
    seen: list[Epoch] = []
    change = {"epochs": 40, "batch_size": 8, "lr": 5e-3, "shift": 0, "threat": Linf(0.02)}
    history = fit(module, source, recipe(objective, **change), watch=seen.append)
    assert seen == history and [epoch.number for epoch in history] == list(range(1, 41)) and seen[0].epochs == 40
    assert history[-1].loss < 0.1 < history[0].loss and not module.training
    images, labels = source.take(source.ids)
    with torch.no_grad():
        predicted = module(torch.from_numpy(images / np.float32(255))).argmax(1).numpy()
    assert (predicted == labels).all()


def test_adversarial_training_makes_a_net_robust() -> None:
    source, test = some(600), load("digits")
    images, labels = test.take(test.ids[:100])
    x, y = torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels)
    robust = {}
    for objective in OBJECTIVES:
        module = net()
        fit(module, source, recipe(objective, epochs=15, lr=1e-2, batch_size=64))
        with torch.no_grad():
            assert float((module(x).argmax(1) == y).float().mean()) > 0.8
        found = PGD(steps=10)(module, x, y, threat=Linf(0.1))
        robust[objective] = float((~found.fooled).float().mean())
    assert robust["adversarial"] > robust["standard"] + 0.2, robust


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_leaves_the_model_as_it_was(objective: str) -> None:
    module = net().train()
    module.head[1].weight.requires_grad_(False)
    key = torch.arange(6)
    batch = Examples(torch.rand(6, 1, 32, 32), torch.arange(6), key)
    before = torch.get_rng_state()
    terms = OBJECTIVES[objective](module, batch, Linf(0.1))
    assert terms.loss.shape == () and bool(torch.isfinite(terms.loss)) and terms.loss.requires_grad
    assert all(not part.requires_grad for part in terms.parts.values()) and terms.parts
    assert module.training and not module.head[1].weight.requires_grad and module.head[1].bias.requires_grad
    assert all(each.grad is None for each in module.parameters()) and torch.equal(torch.get_rng_state(), before)
    again = OBJECTIVES[objective](module, batch, Linf(0.1))
    assert torch.equal(terms.loss, again.loss)


def test_a_radius_of_zero_is_standard_training() -> None:
    module, source = net(), some(30)
    x, y = (torch.from_numpy(part) for part in source.take(source.ids))
    batch = Examples(x / 255, y, torch.arange(30))
    one, other = (OBJECTIVES[name](module, batch, Linf(0)).loss for name in OBJECTIVES)
    assert torch.allclose(one, other)


def test_images_are_moved_by_up_to_the_shift() -> None:
    x = torch.rand(200, 1, 8, 8)
    key = torch.arange(200)
    moved = shifted(x, 2, key)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    found = set()
    for image, candidates in zip(moved, padded):
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, candidates[:, i : i + 8, j : j + 8])]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25 and torch.equal(shifted(x, 0, key), x)


def test_a_loss_that_explodes_is_named() -> None:
    with pytest.raises(BadModel, match=r"the loss is .* in epoch [12](.|\n)*smaller learning rate"):
        fit(net(), some(64), recipe(lr=1e30))


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"warm_up": 1.5}]
)
def test_recipes_that_make_no_sense(change: dict) -> None:
    with pytest.raises(BadValue, match=next(iter(change))):
        recipe(**change)


def test_weights_are_kept_while_the_recipe_is_the_same(tmp_path: Path) -> None:
    path, source, short = tmp_path / "net.safetensors", some(64), recipe(epochs=1)
    assert trained("small_cnn", source, short, path).startswith("trained in")
    held, tensors = path.read_bytes(), load_file(path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert (said["net"], said["objective"], said["threat"]) == ("small_cnn", "Standard", '{"name": "linf", "eps": 0.1}')
    assert said["operations"] == '["translate"]'
    assert trained("small_cnn", source, short, path).startswith("already trained") and path.read_bytes() == held
    assert trained("small_cnn", source, dataclasses.replace(short, seed=1), path).startswith("trained in")
    assert not torch.equal(load_file(path)["head.1.weight"], tensors["head.1.weight"])
    path.write_bytes(held[:100])  # a torn file is trained anew, to the same weights
    assert trained("small_cnn", source, short, path).startswith("trained in")
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(path).items())
