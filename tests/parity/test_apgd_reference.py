"""APGD against a plain second implementation: one sample, one loop, written from the facts of the paper alone."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from holdfast import keys, losses
from holdfast.attacks.apgd import APGD
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf


class Outcome(NamedTuple):
    """Whether the sample fell, its loss at the kept point, points evaluated, and where the step was halved."""

    fooled: bool
    value: float
    evaluated: int
    halved: list[int]


def project(norm: str, eps: float, x0: Tensor, x: Tensor) -> Tensor:
    """Onto ball and box. L2: the t with |clip(x0 + t d) - x0| = eps, pixel by pixel in the order they hit the box."""
    if norm == "linf":
        return x.clamp(0, 1).clamp((x0 - eps).clamp_min(0), (x0 + eps).clamp_max(1))
    d = (x - x0).flatten()
    size, limit = d.abs(), torch.where(d > 0, 1 - x0.flatten(), x0.flatten())
    moved = torch.minimum(size, limit)
    if moved.norm() > eps:
        hits = torch.where(size > 0, limit / size.clamp_min(1e-300), torch.inf).sort()
        spent, left = 0.0, float(size.square().sum())
        for t, i in zip(hits.values.tolist(), hits.indices.tolist()):
            if t >= 1 or spent + t * t * left >= eps * eps:
                break
            spent, left = spent + float(limit[i]) ** 2, left - float(size[i]) ** 2
        moved = torch.minimum(size * ((eps * eps - spent) / left) ** 0.5, limit)
    return (x0.flatten() + moved * d.sign()).view_as(x0)


def direction(norm: str, grad: Tensor) -> Tensor:
    return grad.sign() if norm == "linf" else grad / grad.norm().clamp_min(1e-300)


def apgd(
    net: nn.Module, loss, norm: str, eps: float, x0: Tensor, y: int, target: int, start: Tensor, steps: int
) -> Outcome:
    def look(x: Tensor) -> tuple[bool, float, Tensor]:
        x = x.clone().requires_grad_()
        logits = net(x[None])
        value = loss(logits, torch.tensor([y]), torch.tensor([target]))[0]
        return int(logits.argmax()) != y, float(value.detach()), torch.autograd.grad(value, x)[0]

    x = before = start
    fooled, value, grad = look(x)
    if fooled:
        return Outcome(True, value, 1, [])
    best, best_x, best_grad, last = value, x, grad, value
    eta, window, shrink, least = (
        2 * eps,
        max(int(0.22 * steps), 1),
        max(int(0.03 * steps), 1),
        max(int(0.06 * steps), 1),
    )
    since = rises = 0
    was_halved, best_then, halved = True, value, []
    for k in range(steps):
        z = project(norm, eps, x0, x + eta * direction(norm, grad))
        a = 0.75 if k else 1.0
        x, before = project(norm, eps, x0, x + a * (z - x) + (1 - a) * (x - before)), x
        fooled, value, grad = look(x)
        if fooled:
            return Outcome(True, value, k + 2, halved)
        rises, last, since = rises + (value > last), value, since + 1
        if value > best:
            best, best_x, best_grad = value, x, grad
        if since == window:
            was_halved = rises <= 0.75 * window or (not was_halved and best <= best_then)
            if was_halved:
                eta, x, grad = eta / 2, best_x, best_grad
                halved.append(k + 1)
            best_then, since, rises, window = best, 0, 0, max(window - shrink, least)
    return Outcome(False, best, steps + 1, halved)


@functools.cache
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small net in float64 and 40 8-bit images that it reads."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 6)).double()
        middle = 0.5 + 0.5 * (torch.rand(6, 3, 4, 4, dtype=torch.float64) - 0.5)
        y = torch.arange(240) % 6
        x = ((middle[y] + 0.25 * torch.randn(240, 3, 4, 4, dtype=torch.float64)).clamp(0, 1) * 255).round() / 255
        descent = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(60):
            descent.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            descent.step()
    right = (net(x).argmax(1) == y).nonzero()[:40, 0]
    return net.eval(), x[right], y[right]


@pytest.mark.parametrize(
    ("threat", "loss", "steps", "targets"),
    [
        (Linf(0.08), "ce", 100, 0),
        (Linf(0.08), "dlr", 60, 0),
        (Linf(0.1), "targeted_dlr", 33, 2),
        (L2(0.5), "ce", 100, 0),
        (L2(0.5), "dlr", 60, 0),
        (L2(0.6), "targeted_dlr", 33, 2),
        (L2(2.0), "ce", 40, 0),
    ],
    ids=str,
)
def test_the_same_verdict_loss_and_cost_for_every_sample(threat, loss, steps, targets):
    net, x, y = trained()
    attack = APGD(steps=steps, loss=loss, targets=targets)
    found = attack(net, x, y, threat=threat, seed=5, slots=16)
    key = keys.fold(keys.fold(keys.root(5), torch.arange(len(x))), keys.number("apgd"))
    logits = net(x).detach()
    ranks = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    halvings: list[int] = []
    for i in range(len(x)):
        outcomes = []
        for search in range(max(1, targets)):
            start = threat.sample(x[i : i + 1], keys.fold(key[i : i + 1], search))[0]
            target = int(ranks[i, search]) if targets else -1
            outcomes.append(
                apgd(net, losses.named(loss), threat.name, threat.eps, x[i], int(y[i]), target, start, steps)
            )
            if outcomes[-1].fooled:
                break
        fooled = outcomes[-1].fooled
        value = outcomes[-1].value if fooled else max(o.value for o in outcomes)
        assert bool(found.fooled[i]) == fooled
        assert float(found.value[i]) == pytest.approx(value, rel=1e-9, abs=1e-12)
        # Besides the points of the search: the clean image, and the judge once for each search that claims success.
        cost = 1 + sum(o.evaluated + (o.fooled and o.evaluated <= steps) for o in outcomes)
        assert int(found.forwards[i]) == cost
        halvings += [at for o in outcomes for at in o.halved]
    assert len(found.fooled.unique()) == 2 or threat.eps == 2.0
    if steps == 100:
        assert set(halvings) <= {22, 41, 57, 70, 80, 87, 93, 99} and len(set(halvings)) >= 4
