"""The contract of training objectives, for every registered one."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.frozen import frozen
from holdfast.attacks.pgd import PGD
from holdfast.audit.corrupted.overlap import FAMILIES
from holdfast.foundation import registry
from holdfast.objectives.objective import Carrying, Examples, Objective
from holdfast.threats.linf import Linf

NAMES = registry.names("objective")
CLASSES = 4
WITHOUT_ATTACK = {"free": False, "msd": True}
"""Those that train on adversarial points of their own making, and whether they search in eval mode."""


def objective(name: str, **more: Any) -> Objective:
    """The objective with what it cannot do without: an attack, a helper net."""
    kind = registry.load("objective", name)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed: dict[str, Any] = {"attack": PGD(steps=2), "helper": net(seed=9)}
    return kind(**{key: value for key, value in needed.items() if key in fields}, **more)


def net(seed: int = 0) -> nn.Module:
    """With batch norm, whose mode and statistics show who looked at it. One output more than there are labels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, CLASSES + 1)
        )
    return module.double().train()


def batch(count: int = 6) -> Examples:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Examples(x, torch.arange(count) % CLASSES, keys.fold(keys.root(2), torch.arange(count)))


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [each for each in module.parameters() if each.requires_grad]))


def generators() -> tuple[Any, ...]:
    # The legacy generator of NumPy is global, too, and an objective must leave it alone.
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_finite_and_everything_stays_as_it_was(name: str) -> None:
    module, given = net(), batch()
    module[4].bias.requires_grad_(False)
    before = generators()
    copies = [part.clone() for part in given[:3]]
    terms = objective(name)(module, given, Linf(0.1))
    assert terms.loss.shape == () and terms.loss.requires_grad and bool(torch.isfinite(terms.loss))
    assert terms.parts and all(part.shape == () and not part.requires_grad for part in terms.parts.values())
    assert all(bool(torch.isfinite(part)) for part in terms.parts.values())
    found = gradients(module, terms.loss)
    assert all(bool(torch.isfinite(each).all()) for each in found) and any(float(each.abs().max()) for each in found)
    assert all(each.training for each in module.modules())
    flags = [each.requires_grad for each in module.parameters()]
    assert flags == [True] * (len(flags) - 1) + [False] and all(each.grad is None for each in module.parameters())
    assert generators() == before and all(torch.equal(one, other) for one, other in zip(given, copies))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_batch_has_the_same_loss(name: str) -> None:
    first, second = net(), net()
    one, other = objective(name)(first, batch(), Linf(0.1)), objective(name)(second, batch(), Linf(0.1))
    assert torch.equal(one.loss, other.loss) and one.parts.keys() == other.parts.keys()
    assert all(torch.equal(a, b) for a, b in zip(gradients(first, one.loss), gradients(second, other.loss)))


def tensors(prepared: Any) -> list[Tensor]:
    """All tensors of named tuples of tensors and of such tuples."""
    if isinstance(prepared, Tensor):
        return [prepared]
    assert prepared is None or isinstance(prepared, tuple)
    return [tensor for part in prepared or () for tensor in tensors(part)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_prepared_is_plain_data_and_the_net_stays_as_it_was(name: str) -> None:
    """Also under a copy in evaluation mode that nobody froze: the search must not ask for its parameters' gradients."""
    module = net()
    before = generators(), {key: value.clone() for key, value in module.state_dict().items()}
    for model in (module, net().eval()):
        modes = [each.training for each in model.modules()]
        with frozen(model if model is module else None):
            prepared = objective(name).prepare(model, batch(), Linf(0.1))
        assert [each.training for each in model.modules()] == modes
        assert all(each.requires_grad and each.grad is None for each in model.parameters())
        leaves = [prepared.x] if name == "free" else []  # whose gradient makes the next perturbation
        assert [each for each in tensors(prepared) if each.requires_grad] == leaves
        assert tensors(prepared) and all(each.is_leaf for each in tensors(prepared))
    assert generators() == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_are_a_function_of_what_was_prepared(name: str) -> None:
    made, module = objective(name), net()
    with frozen(module):
        prepared = made.prepare(module, batch(), Linf(0.1))
    kept = [each.clone() for each in tensors(prepared)]
    one, again = made.terms(module, prepared), made.terms(module, prepared)
    assert torch.equal(one.loss, again.loss) and torch.equal(one.loss, made(net(), batch(), Linf(0.1)).loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients(module, one.loss), gradients(module, again.loss)))
    assert all(torch.equal(a, b) for a, b in zip(kept, tensors(prepared)))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    turned = Examples(*(part[order] for part in batch()[:3]))
    one, other = objective(name)(net(), batch(), Linf(0.1)).loss, objective(name)(net(), turned, Linf(0.1)).loss
    assert torch.allclose(one, other)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.load("objective", name).divisible])
def test_a_batch_can_be_divided_where_it_says_so(name: str) -> None:
    """Batch norm in eval mode: in train mode it is what differs."""
    module, chosen, whole = net().eval(), objective(name), batch()

    def loss(part: Examples) -> Tensor:
        with frozen(module):
            prepared = chosen.prepare(module, part, Linf(0.1))
        return chosen.terms(module, prepared).loss

    parts = sum(
        len(range(6)[rows]) / 6 * loss(whole.part(rows)) for rows in (slice(0, 6, 2), slice(1, 6, 4), slice(3, 4))
    )
    assert isinstance(parts, Tensor) and torch.allclose(parts, loss(whole), rtol=1e-12)
    assert all(map(torch.allclose, gradients(module, parts), gradients(module, loss(whole))))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one(name: str) -> None:
    module = net()
    terms = objective(name)(module, batch(1), Linf(0.1))
    assert bool(torch.isfinite(terms.loss)) and all(bool(torch.isfinite(part)) for part in terms.parts.values())
    assert all(bool(torch.isfinite(each).all()) for each in gradients(module, terms.loss))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_the_model_sees_are_images_of_its_dtype(name: str, dtype: torch.dtype) -> None:
    module, seen = net().to(dtype), []
    module.register_forward_pre_hook(lambda _, given: seen.append((module.training, given[0])))
    given = batch()
    made = objective(name)
    if getattr(made, "helper", None) is not None:
        made = dataclasses.replace(made, helper=net(seed=9).to(dtype))  # type: ignore[type-var]
    loss = made(module, given._replace(x=given.x.to(dtype)), Linf(0.1)).loss
    trained = [x for training, x in seen if training]
    assert loss.dtype == dtype and trained and all(x.dtype == dtype and x.shape[1:] == (3, 8, 8) for x in trained)
    assert all(bool(((x >= 0) & (x <= 1)).all()) for x in trained)
    assert all(x.requires_grad == isinstance(made, Carrying) for x in trained)
    # The search is in eval mode: it must not move batch norm's statistics.
    assert int(module[1].num_batches_tracked) == len(trained)
    assert (len(trained) < len(seen)) == WITHOUT_ATTACK.get(name, hasattr(made, "attack"))


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_what_it_trains_on(name: str) -> None:
    kind = registry.load("objective", name)
    for declared in (kind.operations, objective(name).operations):
        assert isinstance(declared, tuple) and set(declared) <= set(FAMILIES)
    attacks = "attack" in kind.__dataclass_fields__ or name in WITHOUT_ATTACK
    assert ("adversarial" in objective(name).operations) == attacks


@pytest.mark.parametrize("name", NAMES)
def test_it_is_configuration_and_names_its_source(name: str) -> None:
    kind = registry.load("objective", name)
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert name == "standard" or "Source: " in kind.__doc__
    assert kind.__name__.lower() == name.replace("_", "")
    made = objective(name)
    assert dataclasses.replace(made) == made  # type: ignore[type-var]
