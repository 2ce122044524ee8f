"""The contract of defences, for every registered one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.defences.defence import Defence
from holdfast.foundation import registry
from holdfast.imaging.pool import Pool
from holdfast.nets.preact_resnet18 import PreActResNet18

NAMES = registry.names("defence")


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.3


def darker(x: Tensor) -> Tensor:
    return x.square()


NEEDED = {
    "mixup_inference": lambda: {"pool": Pool.of(images(15, 9), torch.arange(15) % 5, source="noise")},
    "purifier": lambda: {"purify": darker},
}
"""What a defence cannot be made without, by its name."""


def defence(name: str) -> Defence:
    return registry.load("defence", name)(**NEEDED.get(name, dict)())


def net() -> nn.Module:
    """A net with everything that a defence could touch: batch norms with statistics of their own, dropout, frozen parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            PreActResNet18(widths=(4, 8), blocks=(1, 1), classes=16), nn.Dropout(0.5), nn.Linear(16, 5)
        )
        module.train()
        for _ in range(20):
            module(torch.rand(32, 3, 16, 16) * 0.7)
    module[2].weight.requires_grad_(False)
    return module.eval()


def state(module: nn.Module) -> list[object]:
    tensors = [*module.parameters(), *module.buffers()]
    flags = [(each.training, len(each._forward_hooks), len(each._forward_pre_hooks)) for each in module.modules()]
    return [
        [(id(each), each.detach().numpy().tobytes(), each.requires_grad, each.grad is None) for each in tensors],
        [*flags, *map(type, module.modules())],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_stays_as_it_is(name: str) -> None:
    for mode in (False, True):
        module = net().train(mode)
        before, generator = state(module), torch.get_rng_state()
        wrapped = defence(name).wrap(module)
        openings = defence(name).openings(module)
        for seed in range(3):
            wrapped(images(8, seed))
        with torch.no_grad(), frozen(module):
            for opening in openings:
                opening.classifier(images(8))
        assert state(module) == before and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_classes_come_out_for_any_batch(name: str) -> None:
    module = net()
    for count in (0, 1, 2, 9):
        with torch.no_grad():
            logits = defence(name).wrap(module)(images(count))
        assert logits.shape == module(images(count)).shape == (count, 5) and not logits.requires_grad
        assert logits.dtype == torch.float32 and bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_one_gives_the_same_answers_again(name: str) -> None:
    module = net()
    one, other = defence(name).wrap(module), defence(name).wrap(copy.deepcopy(module).train())
    first = [one(images(8, seed)).detach() for seed in range(4)]
    again = [defence(name).wrap(module)(images(8))] + [other(images(8, seed)).detach() for seed in range(4)]
    assert torch.equal(again[0].detach(), first[0])
    assert all(torch.equal(a, b) for a, b in zip(first, again[1:]))
    assert not torch.allclose(first[0], module(images(8)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_how_gradients_are_switched_changes_no_answer(name: str, mode) -> None:
    wrapped, other = defence(name).wrap(net()), defence(name).wrap(net())
    for seed in range(3):
        plain = wrapped(images(8, seed)).detach()
        with mode():
            assert torch.equal(other(images(8, seed)), plain)


@pytest.mark.parametrize("name", NAMES)
def test_the_openings_are_the_core_and_more_and_let_gradients_through_or_say_why_not(name: str) -> None:
    module = net()
    openings = defence(name).openings(module)
    assert openings[0].name == "core" and torch.equal(openings[0].classifier(images(8)), module(images(8)))
    assert len({opening.name for opening in openings}) == len(openings) > 1
    wrapped = defence(name).wrap(module)(images(8))
    assert any(torch.equal(opening.classifier(images(8)), wrapped) for opening in openings[1:])
    assert any(not opening.flat for opening in openings[1:])
    for opening in openings:
        x = images(8).requires_grad_()
        logits = opening.classifier(x)
        assert logits.shape == (8, 5) and opening.draws >= 1
        if not opening.flat:
            (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
            assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_it_is_configuration_and_names_its_source(name: str) -> None:
    kind = registry.load("defence", name)
    assert dataclasses.is_dataclass(kind) and defence(name) == defence(name) and kind.__dataclass_params__.frozen
    assert isinstance(kind.transductive, bool) and "Source" in kind.__doc__
    assert kind.__name__.lower() == name.replace("_", "")
