"""What wraps an objective: perturbed weights, aligned gradients, averages, replays, more data, other nets, later changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from holdfast.attacks.friendly import Friendly
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.data.source import Source
from holdfast.foundation.errors import BadData, BadFile, BadValue
from holdfast.nets.small_cnn import SmallCNN
from holdfast.nets.small_resnet import SmallResNet
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.extra_class import ExtraClass
from holdfast.objectives.free import Free
from holdfast.objectives.hat import HAT
from holdfast.objectives.objective import Examples
from holdfast.objectives.standard import Standard
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.union import Union
from holdfast.training import recipes
from holdfast.training.awp import perturbed
from holdfast.training.batches import Batches
from holdfast.training.checkpoint import restored
from holdfast.training.folder import CLEAN, ROBUST
from holdfast.training.grad_align import misalignment
from holdfast.training.loop import Trainer
from holdfast.training.plan import passes, planned
from holdfast.training.recipe import Recipe
from holdfast.training.relabelled import relabelled
from holdfast.training.run import train

SMALL = {"width": 4, "hidden": 16}


def net(seed: int = 0) -> SmallCNN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallCNN(**SMALL)


def some(n: int = 60, first: int = 0) -> Source:
    source = load("digits:train")
    batch = source.take(source.ids[first : first + n])
    return from_pair(batch.images, batch.labels)


def recipe(**change: Any) -> Recipe:
    settings = {"objective": Standard(), "threat": Linf(0.1), "epochs": 2, "batch_size": 16, "lr": 5e-3}
    return Recipe(**{**settings, **change})


def steps(trainer: Trainer, count: int) -> list[float]:
    return [float(trainer.step()) for _ in range(count)]


def test_perturbed_weights_are_one_step_up_and_come_back() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(module.state_dict())

    def loss() -> torch.Tensor:
        return module(x).pow(3).sum()

    def gradient(weights: Sequence[nn.Parameter]) -> Sequence[torch.Tensor]:
        return torch.autograd.grad(loss(), weights)

    weight = module[0].weight
    (grad,) = gradient([weight])
    module.load_state_dict(before)
    with perturbed(module, gradient, 0.1):
        expected = before["0.weight"] + 0.1 * before["0.weight"].norm() * grad / grad.norm()
        assert torch.allclose(weight, expected) and not torch.equal(weight, before["0.weight"])
        assert torch.equal(module[0].bias, before["0.bias"]), "biases and norms stay"
        loss().backward()
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("0."))
    assert int(after["1.num_batches_tracked"]) == 1, "the pass that finds the direction leaves the statistics alone"
    assert weight.grad is not None and float(weight.grad.abs().max()) > 0
    with pytest.raises(RuntimeError), perturbed(module, gradient, 0.1):
        raise RuntimeError
    assert torch.equal(weight, before["0.weight"])


def test_a_step_with_perturbed_weights_is_the_plain_one_written_out() -> None:
    how = recipe(awp=0.05, optimiser="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", lr=0.1)
    module, slow = net(), net()
    trainer = Trainer(module, some(), how)
    batch = trainer.batches.at(0)
    trainer.step()
    weights = [each for each in slow.parameters() if each.ndim > 1]
    grads = torch.autograd.grad(F.cross_entropy(slow(batch.x), batch.y), weights)
    moved = copy.deepcopy(slow)
    with torch.no_grad():
        for each, grad in zip([each for each in moved.parameters() if each.ndim > 1], grads):
            each.add_(0.05 * each.norm() * grad / grad.norm())
    there = torch.autograd.grad(F.cross_entropy(moved(batch.x), batch.y), list(moved.parameters()))
    for each, before, grad in zip(module.parameters(), slow.parameters(), there):
        assert torch.allclose(each, before - 0.1 * grad, atol=1e-6)


def test_misalignment_is_the_cosine_of_two_gradients_and_can_be_lowered() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0])
    batch = Examples(x, y, torch.arange(5))
    assert float(misalignment(linear, batch, Linf(0.3)).detach()) == pytest.approx(0, abs=1e-6), (
        "one direction everywhere"
    )
    bent = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        bent[1].weight.mul_(8)
    value = misalignment(bent, batch, Linf(0.3)).detach()
    at, near = x.clone().requires_grad_(), Linf(0.3).sample(x, _noise(batch.key)).requires_grad_()
    grads = [torch.autograd.grad(F.cross_entropy(bent(each), y, reduction="sum"), each)[0] for each in (at, near)]
    cosines = [float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in zip(*grads)]
    assert float(value) == pytest.approx(1 - float(np.mean(cosines)), abs=1e-5) and float(value) > 0.01
    optimiser = torch.optim.SGD(bent.parameters(), lr=0.05)
    for _ in range(30):
        optimiser.zero_grad()
        misalignment(bent, batch, Linf(0.3)).backward()
        optimiser.step()
    assert float(misalignment(bent, batch, Linf(0.3)).detach()) < 0.7 * float(value)


def _noise(key: torch.Tensor) -> torch.Tensor:
    from holdfast import keys

    return keys.fold(key, keys.number("gradient alignment"))


def test_averages() -> None:
    seen: list[list[torch.Tensor]] = []
    how = recipe(average=0.5, averaging="uniform", average_from=0.5, epochs=2)
    trainer = Trainer(net(), some(), how)
    while not trainer.finished:
        trainer.step()
        seen.append([each.detach().clone() for each in trainer.net.parameters()])
        if trainer.done <= trainer.total // 2:
            assert all(torch.equal(a, b) for a, b in zip(trainer.judged().parameters(), trainer.net.parameters()))
    half = trainer.total // 2
    for place, each in enumerate(trainer.judged().parameters()):
        assert torch.allclose(each, torch.stack([step[place] for step in seen[half:]]).mean(0), atol=1e-6)


def test_a_plain_mean_has_statistics_of_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = SmallResNet(channels=1, width=4)
    trainer = Trainer(module, some(), recipe(average=0.5, averaging="uniform", average_from=0.25, epochs=3, lr=0.02))
    while not trainer.finished:
        trainer.step()
    judged, average = trainer.judged(), trainer.average
    assert average is not None and judged is not average
    x = torch.cat([trainer.batches.at(number).x for number in range(trainer.per_epoch)])
    spreads = []
    for each in (average, judged):
        hook = next(layer for layer in each.modules() if isinstance(layer, nn.BatchNorm2d))
        given: list[torch.Tensor] = []
        handle = hook.register_forward_hook(lambda _, inputs, out, given=given: given.append(inputs[0]))
        with torch.no_grad():
            each.eval()(x)
        handle.remove()
        spreads.append(float((given[0].mean((0, 2, 3)) - hook.running_mean).abs().max()))
    assert spreads[1] < 0.25 * spreads[0], spreads
    norms = [layer for layer in judged.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.momentum == 0.1 for layer in norms)


def test_a_batch_is_replayed_and_the_perturbation_stays_in_the_set() -> None:
    how = recipe(objective=Free(), replays=3, warm_up=0.0)
    trainer = Trainer(net(), some(), how)
    assert trainer.per_epoch == 3 * 4 and trainer.total == 24
    seen = []
    at = trainer.batches.at
    trainer.batches.at = lambda number: (seen.append(number), at(number))[1]  # type: ignore[method-assign]
    steps(trainer, 7)
    assert seen == [0, 0, 0, 1, 1, 1, 2]
    carried = trainer.state()["carried.delta"]
    assert carried.shape == (16, 1, 32, 32) and 0.05 < float(carried.abs().max()) <= 0.1 + 1e-6
    with pytest.raises(BadValue, match="replays is 3, and Standard keeps nothing"):
        recipe(replays=3)


def test_extra_data_take_their_share_of_every_batch() -> None:
    own, extra = from_pair(np.zeros((20, 1, 8, 8), np.uint8), np.zeros(20, int)), None
    extra = from_pair(np.full((30, 1, 8, 8), 255, np.uint8), np.ones(30, int))
    how = recipe(extra_share=0.75, batch_size=8)
    batches = Batches(own, how, dtype=torch.float32, device=torch.device("cpu"), extra=extra)
    assert batches.per_epoch == 3
    for number in range(12):
        batch = batches.at(number)
        assert int(batch.y.sum()) == 6 and len(batch.y) == 8 and torch.equal(batch.x[:, 0, 0, 0], batch.y.float())
    seen = torch.cat([batches.at(number).key[:2] for number in range(10)])
    assert len(seen.unique()) == 20, "ten batches of two are a pass over the twenty"
    again = Batches(own, how, dtype=torch.float32, device=torch.device("cpu"), extra=extra)
    assert all(torch.equal(a, b) for a, b in zip(batches.at(7)[:3], again.at(7)[:3]))


def test_every_image_is_seen_once_an_epoch_in_another_order() -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    batches = Batches(
        from_pair(images, np.arange(20)), recipe(batch_size=8), dtype=torch.float32, device=torch.device("cpu")
    )
    orders = [torch.cat([batches.at(3 * epoch + number).y for number in range(3)]) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(20)) for order in orders)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])


def test_later_objectives_take_over() -> None:
    later = ((0.5, Adversarial(PGD(steps=3))),)
    trainer = Trainer(net(), some(), recipe(objective=Adversarial(NFGSM()), later=later, warm_up=0.0))
    assert trainer.recipe.objective_at(0.49).attack == NFGSM() and trainer.recipe.objective_at(0.5) == later[0][1]  # type: ignore[attr-defined]
    made = recipes.recipe("friendly", Linf(0.1), {})
    taus = [made.objective_at(share).attack.tau for share in (0, 0.41, 0.42, 0.74, 0.75)]  # type: ignore[attr-defined]
    assert taus == [0, 0, 1, 1, 2] and isinstance(made.objective.attack, Friendly)  # type: ignore[attr-defined]
    for wrong in (((0.0, Standard()),), ((0.7, Standard()), (0.3, Standard()))):
        with pytest.raises(BadValue, match="later begins at"):
            recipe(later=wrong)


def test_the_extra_class_gets_its_output_and_the_helper_its_weights(tmp_path: Path) -> None:
    source = some(120)
    how = recipe(objective=ExtraClass(PGD(steps=2)))
    train("small_cnn", source, how, tmp_path / "extra", options=SMALL)
    assert restored(tmp_path / "extra" / ROBUST)(torch.rand(2, 1, 32, 32)).shape == (2, 11)
    train("small_cnn", source, recipe(), tmp_path / "standard", options=SMALL)
    helper = tmp_path / "standard" / CLEAN
    hat = recipe(objective=HAT(PGD(steps=2, start="clean")))
    with pytest.raises(BadValue, match="hat has no helper"):
        train("small_cnn", source, hat, tmp_path / "none", options=SMALL)
    found = train("small_cnn", source, hat, tmp_path / "hat", options=SMALL, helper=helper)
    assert len(found.epochs) == 2
    with pytest.raises(BadValue, match="Standard takes no helper"):
        train("small_cnn", source, recipe(), tmp_path / "wrong", options=SMALL, helper=helper)
    with pytest.raises(BadFile, match="does not say which net"):
        restored(tmp_path / "hat" / "last.safetensors")


def test_unlabelled_images_get_the_answers_of_a_net(tmp_path: Path) -> None:
    train("small_cnn", some(200), recipe(epochs=8), tmp_path / "teacher", options=SMALL)
    teacher = restored(tmp_path / "teacher" / CLEAN)
    unlabelled = some(60, first=300)
    said = relabelled(unlabelled, teacher)
    x = torch.from_numpy(unlabelled.take(unlabelled.ids).images / np.float32(255))
    assert (said.take(said.ids).labels == teacher(x).argmax(1).numpy()).all()
    found = train("small_cnn", some(), recipe(), tmp_path / "more", options=SMALL, extra=said)
    assert (
        len(found.epochs) == 2 and json.loads((tmp_path / "more" / "training.json").read_text())["extra"] == said.name
    )
    grey = from_pair(np.zeros((20, 3, 8, 8), np.uint8), np.zeros(20, int))
    with pytest.raises(BadData, match=r"the extra data are \(3, 8, 8\)"):
        train("small_cnn", some(), recipe(), tmp_path / "grey", options=SMALL, extra=grey)


def test_several_norms_at_once(tmp_path: Path) -> None:
    threat = Union(Linf(0.05), L2(0.5))
    for name in ("mat", "msd"):
        made = recipes.recipe(name, threat, {"epochs": 1, "batch_size": 32})
        found = train("small_cnn", some(120), made, tmp_path / name, options=SMALL)
        assert 0 <= found.epochs[0].robust <= found.epochs[0].clean
        with safe_open(tmp_path / name / ROBUST, "pt") as file:
            said = json.loads(file.metadata()["threat"])
        assert said["name"] == "union" and [each["name"] for each in said["parts"]] == ["linf", "l2"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 3),
        ({"objective": Adversarial(PGD(steps=10))}, 23),
        ({"objective": Adversarial(NFGSM())}, 5),
        ({"objective": Adversarial(PGD(steps=10)), "awp": 0.01}, 26),
        ({"objective": Adversarial(NFGSM()), "align": 0.2}, 15),
        ({"objective": Free(), "replays": 4}, 3),
    ],
)
def test_the_plan_counts_what_a_step_costs(change: dict[str, Any], expected: float) -> None:
    trainer = Trainer(net(), some(), recipe(**change))
    before = trainer.state()
    assert passes(trainer) == expected
    plan = planned(trainer)
    assert plan.steps == trainer.total and plan.passes == expected and plan.seconds > 0
    assert (
        plan.parameters == sum(each.numel() for each in trainer.net.parameters()) and plan.bytes > 4 * plan.parameters
    )
    after = trainer.state()
    assert all(torch.equal(before[name], after[name]) for name in before) and trainer.done == 0
