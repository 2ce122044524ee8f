"""Every objective of adversarial training: its value and gradient by a slow plain loop, its draws, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.attacks.apgd import APGD
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.data.load import load
from holdfast.foundation import registry
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.imaging.augmix import augmix
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.alp import ALP
from holdfast.objectives.augmix import AugMix
from holdfast.objectives.avmixup import AVMixup
from holdfast.objectives.clp import CLP
from holdfast.objectives.cutmix import BOX, CutMix
from holdfast.objectives.extra_class import ExtraClass, undetected
from holdfast.objectives.free import Free
from holdfast.objectives.gaussian_noise import GaussianNoise
from holdfast.objectives.half_clean import CHOSEN, HalfClean
from holdfast.objectives.hat import HAT
from holdfast.objectives.inner import NOISE, diverging, search
from holdfast.objectives.interpolated import Interpolated
from holdfast.objectives.mart import MART, boosted_ce
from holdfast.objectives.mat import MAT
from holdfast.objectives.mixing import WEIGHT, mixed, partners, symmetric_beta
from holdfast.objectives.mixup import Mixup
from holdfast.objectives.msd import MSD
from holdfast.objectives.objective import Carrying, Examples, Objective
from holdfast.objectives.standard import Standard
from holdfast.objectives.trades import TRADES
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat
from holdfast.threats.union import Union

EPS, SIZE, CLASSES = 0.1, 0.04, 3
LINF = Linf(EPS)
UNION = Union(LINF, L2(0.3), L1(0.8))
PGD2 = PGD(steps=2, step_size=SIZE, start="clean")

# The plain side: one image (1, 5, 5) at a time, probabilities by exponentials, an attack in a loop.

Weights = tuple[Tensor, Tensor]
Value = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """The smallest net that bends."""

    def __init__(self, classes: int = CLASSES, seed: int = 0, inputs: int = 25, hidden: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(hidden, inputs, generator=generator, dtype=torch.float64) * 2.5 / inputs**0.5
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(torch.randn(classes, hidden, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.first.T) @ self.second.T

    def weights(self) -> Weights:
        return self.first.detach().clone().requires_grad_(), self.second.detach().clone().requires_grad_()


def logits(weights: Weights, x: Tensor) -> Tensor:
    return weights[1] @ torch.tanh(weights[0] @ x.flatten())


def chances(weights: Weights, x: Tensor) -> Tensor:
    grown = torch.exp(logits(weights, x))
    return grown / grown.sum()


def entropy(p: Tensor, label: int) -> Tensor:
    return -torch.log(p[label])


def spread_entropy(p: Tensor, label: int, smoothing: float) -> Tensor:
    return (1 - smoothing) * entropy(p, label) + smoothing * sum(entropy(p, each) for each in range(len(p))) / len(p)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q)."""
    return sum(p[k] * (torch.log(p[k]) - torch.log(q[k])) for k in range(len(p)))


def climb(clean: Tensor, start: Tensor, value: Value, steps: int = 2, size: float = SIZE) -> Tensor:
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(value(x), x)
        x = (x + size * grad.sign()).detach()
        x = torch.minimum(torch.maximum(x, clean - EPS), clean + EPS).clamp(0, 1)
    return x


def held(weights: Weights) -> Weights:
    return weights[0].detach(), weights[1].detach()


def attacked(weights: Weights, batch: Examples) -> list[Tensor]:
    fixed = held(weights)
    return [climb(x, x, lambda z, y=y: entropy(chances(fixed, z), y)) for x, y in zip(batch.x, batch.y.tolist())]


def diverged(weights: Weights, batch: Examples) -> list[Tensor]:
    fixed, found = held(weights), []
    noise = keys.normal(keys.fold(batch.key, NOISE), (1, 5, 5), dtype=torch.float64)
    for x, shake in zip(batch.x, noise):
        p = chances(fixed, x)
        found.append(climb(x, x + 0.001 * shake, lambda z, p=p: divergence(p, chances(fixed, z))))
    return found


def ascended(clean: Tensor, x: Tensor, grad: Tensor, part: Threat, radii: float) -> Tensor:
    """One steepest step of that many radii, and the nearest point of the ball and the pixel box by bisection."""
    if part.name == "linf":
        x = x + radii * part.eps * grad.sign()
        return torch.minimum(torch.maximum(x, clean - part.eps), clean + part.eps).clamp(0, 1)
    if part.name == "l2":
        far = x + radii * part.eps * grad / grad.square().sum().sqrt() - clean
    else:  # with 25 values, 1 % of them is the largest one
        far = x + radii * part.eps * grad.sign() * (grad.abs() == grad.abs().max()) - clean
    room, low, high = torch.where(far > 0, 1 - clean, clean), 0.0, 1.0

    def kept(share: float) -> Tensor:
        """L2 shrinks all changes alike, L1 cuts the same amount off each."""
        size = far.abs() * share if part.name == "l2" else (far.abs() - (1 - share) * far.abs().max()).clamp_min(0)
        return torch.minimum(size, room)

    for _ in range(100):
        middle = (low + high) / 2
        length = kept(middle).square().sum().sqrt() if part.name == "l2" else kept(middle).sum()
        low, high = (middle, high) if length <= part.eps else (low, middle)
    return clean + kept(low) * far.sign()


def rounds(batch: Examples) -> list[tuple[int, Tensor, int]]:
    return [(row, x, label) for row, (x, label) in enumerate(zip(batch.x, batch.y.tolist()))]


def mean_entropy(weights: Weights, xs: list[Tensor], batch: Examples, smoothing: float = 0.0) -> Tensor:
    labels = batch.y.tolist()
    return sum(spread_entropy(chances(weights, x), y, smoothing) for x, y in zip(xs, labels)) / len(labels)


def standard(weights: Weights, batch: Examples) -> Tensor:
    return mean_entropy(weights, list(batch.x), batch, 0.1)


def adversarial(weights: Weights, batch: Examples) -> Tensor:
    return mean_entropy(weights, attacked(weights, batch), batch, 0.2)


def adversarial_kl(weights: Weights, batch: Examples) -> Tensor:
    return mean_entropy(weights, diverged(weights, batch), batch)


def gaussian_noise(weights: Weights, batch: Examples) -> Tensor:
    noisy = keys.uniform(keys.fold(batch.key, 0), (1,))[:, 0].tolist()
    noise = keys.box_muller(keys.fold(batch.key, 1), (1, 5, 5)).double()
    xs = [(x + 0.2 * shake).clamp(0, 1) if chance < 0.4 else x for x, shake, chance in zip(batch.x, noise, noisy)]
    return mean_entropy(weights, xs, batch)


def consistent(weights: Weights, batch: Examples) -> Tensor:
    """AugMix: the augmentations are those of `augmix`, which has tests of its own."""
    views, total = [augmix(batch.x, keys.fold(batch.key, number), severity=2, width=2) for number in (0, 1)], 0
    for row, x, label in rounds(batch):
        three = [chances(weights, each) for each in (x, views[0][row], views[1][row])]
        middle = sum(three) / 3
        total = total + entropy(three[0], label) + 7 * sum(divergence(p, middle) for p in three) / 3
    return total / len(batch.y)


def trades(weights: Weights, batch: Examples) -> Tensor:
    moved, total = diverged(weights, batch), 0
    for row, x, label in rounds(batch):
        p, q = chances(weights, x), chances(weights, moved[row])
        total = total + spread_entropy(p, label, 0.2) + 5 * divergence(p, q)
    return total / len(batch.y)


def mart(weights: Weights, batch: Examples) -> Tensor:
    moved, total = attacked(weights, batch), 0
    for row, x, label in rounds(batch):
        p, q = chances(weights, x), chances(weights, moved[row])
        worst = max((float(each), k) for k, each in enumerate(q.detach()) if k != label)[1]
        total = total - torch.log(q[label]) - torch.log(1 - q[worst]) + 4 * divergence(p, q) * (1 - p[label])
    return total / len(batch.y)


def hat(weights: Weights, batch: Examples) -> Tensor:
    moved, total, helper = diverged(weights, batch), 0, Net(seed=5).weights()
    for row, x, label in rounds(batch):
        p, q = chances(weights, x), chances(weights, moved[row])
        beyond = (x + 1.7 * (moved[row] - x)).clamp(0, 1)
        guess = int(logits(helper, moved[row]).argmax())
        total = total + entropy(p, label) + 2 * divergence(p, q) + 0.3 * entropy(chances(weights, beyond), guess)
    return total / len(batch.y)


def alp(weights: Weights, batch: Examples) -> Tensor:
    moved, total = attacked(weights, batch), 0
    for row, x, label in rounds(batch):
        both = entropy(chances(weights, x), label) + entropy(chances(weights, moved[row]), label)
        apart = sum((a - b) ** 2 for a, b in zip(logits(weights, x), logits(weights, moved[row]))) / CLASSES
        total = total + both / 2 + 0.7 * apart
    return total / len(batch.y)


def partner(key: Tensor) -> list[int]:
    ranks = sorted(range(len(key)), key=keys.fold(key, keys.number("partner")).tolist().__getitem__)
    return [ranks[(ranks.index(row) + 1) % len(ranks)] for row in range(len(ranks))]


def clp(weights: Weights, batch: Examples) -> Tensor:
    noise = keys.box_muller(keys.fold(batch.key, 1), (1, 5, 5)).double()
    seen = [(x + 0.2 * shake).clamp(0, 1) for x, shake in zip(batch.x, noise)]
    total, others = 0, partner(batch.key)
    for row, _, label in rounds(batch):
        one, other = logits(weights, seen[row]), logits(weights, seen[others[row]])
        total = total + entropy(chances(weights, seen[row]), label) + 0.6 * ((one - other) ** 2).sum() / CLASSES
    return total / len(batch.y)


def mixtures(xs: list[Tensor], key: Tensor, alpha: float) -> list[tuple[Tensor, float, int]]:
    shares, others = symmetric_beta(key, alpha).tolist(), partner(key)
    return [(share * x + (1 - share) * xs[other], share, other) for x, share, other in zip(xs, shares, others)]


def two_labels(p: Tensor, label: int, other: int, share: float) -> Tensor:
    return -sum(
        (share * (k == label) + (1 - share) * (k == other)) * torch.log(p[k]) for k in range(len(p))
    )  # to the soft label itself


def mixup(weights: Weights, batch: Examples) -> Tensor:
    total, labels = 0, batch.y.tolist()
    for row, (x, share, other) in enumerate(mixtures(list(batch.x), batch.key, 0.8)):
        total = total + two_labels(chances(weights, x), labels[row], labels[other], share)
    return total / len(labels)


def mixup_attacked(weights: Weights, batch: Examples) -> Tensor:
    total, labels, fixed = 0, batch.y.tolist(), held(weights)
    for row, (x, share, other) in enumerate(mixtures(list(batch.x), batch.key, 1.4)):
        value = lambda z, row=row, other=other, share=share: two_labels(
            chances(fixed, z), labels[row], labels[other], share
        )
        moved = climb(x, x, value)
        total = total + two_labels(chances(weights, moved), labels[row], labels[other], share)
    return total / len(labels)


def cutmix(weights: Weights, batch: Examples) -> Tensor:
    total, labels, others = 0, batch.y.tolist(), partner(batch.key)
    draws = keys.uniform(keys.fold(batch.key, BOX), (3,)).tolist()
    for row, (left, (_, down, right)) in enumerate(zip(symmetric_beta(batch.key, 1.0).tolist(), draws)):
        half, x, cut = int(5 * (1 - left) ** 0.5) // 2, batch.x[row].clone(), 0
        for i in range(5):
            for j in range(5):
                if abs(i + 0.5 - int(5 * down)) < half and abs(j + 0.5 - int(5 * right)) < half:
                    x[0, i, j], cut = batch.x[others[row], 0, i, j], cut + 1
        total = total + two_labels(chances(weights, x), labels[row], labels[others[row]], 1 - cut / 25)
    return total / len(labels)


def cutmix_attacked(weights: Weights, batch: Examples) -> Tensor:
    mixture, fixed, total = CutMix()._cut(batch), held(weights), 0  # the boxes themselves are drawn plainly above
    for x, *labels, share in zip(mixture.x, mixture.y.tolist(), mixture.other.tolist(), mixture.share.tolist()):
        moved = climb(x, x, lambda z, labels=labels, share=share: two_labels(chances(fixed, z), *labels, share))
        total = total + two_labels(chances(weights, moved), *labels, share)
    return total / len(batch.y)


def interpolated(weights: Weights, batch: Examples) -> Tensor:
    total, labels = 0, batch.y.tolist()
    for number, xs in enumerate((list(batch.x), attacked(weights, batch))):
        for row, (x, share, other) in enumerate(mixtures(xs, keys.fold(batch.key, number), 1.0)):
            total = total + two_labels(chances(weights, x), labels[row], labels[other], share)
    return total / (2 * len(labels))


def avmixup(weights: Weights, batch: Examples) -> Tensor:
    moved, total = attacked(weights, batch), 0
    shares = keys.uniform(keys.fold(batch.key, WEIGHT), (1,), dtype=torch.float64)[:, 0].tolist()
    for row, x, label in rounds(batch):
        vertex = (x + 1.5 * (moved[row] - x)).clamp(0, 1)
        p = chances(weights, shares[row] * x + (1 - shares[row]) * vertex)
        for share, kept in ((shares[row], 0.9), (1 - shares[row], 0.2)):
            soft = [kept if k == label else (1 - kept) / (CLASSES - 1) for k in range(CLASSES)]
            total = total - share * sum(soft[k] * torch.log(p[k]) for k in range(CLASSES))
    return total / len(batch.y)


def half_clean(weights: Weights, batch: Examples) -> Tensor:
    moved, total, mass = attacked(weights, batch), 0, 0
    order = sorted(range(len(batch.y)), key=keys.fold(batch.key, CHOSEN).tolist().__getitem__)
    for row, x, label in rounds(batch):
        weight = 0.3 if row in order[:3] else 1.0  # 0.4 of 7 images
        p = chances(weights, moved[row] if weight < 1 else x)
        total, mass = total + weight * spread_entropy(p, label, 0.1), mass + weight
    return total / mass


def extra_class(weights: Weights, batch: Examples) -> Tensor:
    fixed, total = (weights[0].detach(), weights[1].detach()[:-1]), 0  # the attack does not see the last output
    moved = [climb(x, x, lambda z, y=y: entropy(chances(fixed, z), y)) for _, x, y in rounds(batch)]
    for row, x, label in rounds(batch):
        total = total + entropy(chances(weights, x), label) + 0.8 * entropy(chances(weights, moved[row]), CLASSES)
    return total / len(batch.y)


def in_parts(weights: Weights, batch: Examples) -> list[list[Tensor]]:
    """The points of PGD with two steps of 1.25 radii from each image, for every part."""
    fixed, found = held(weights), []
    for part in UNION.parts:
        found.append([])
        for _, clean, label in rounds(batch):
            x = clean
            for _ in range(2):
                x = x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(entropy(chances(fixed, x), label), x)
                x = ascended(clean, x.detach(), grad, part, 1.25)
            found[-1].append(x)
    return found


def mat(weights: Weights, batch: Examples) -> Tensor:
    return sum(mean_entropy(weights, xs, batch, 0.1) for xs in in_parts(weights, batch)) / 3


def mat_worst(weights: Weights, batch: Examples) -> Tensor:
    fixed, labels = held(weights), batch.y.tolist()
    rivals = zip(*in_parts(weights, batch))
    xs = [max(each, key=lambda x, y=y: float(entropy(chances(fixed, x), y))) for each, y in zip(rivals, labels)]
    return mean_entropy(weights, xs, batch)


def msd(weights: Weights, batch: Examples) -> Tensor:
    fixed, found = held(weights), []
    for _, clean, label in rounds(batch):
        value = lambda x, label=label: entropy(chances(fixed, x), label)
        x, passed = clean, []
        for _ in range(4):
            x = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(value(x), x)
            tried = [ascended(clean, x.detach(), grad, part, 0.4) for part in UNION.parts]
            x = max(tried, key=lambda each: float(value(each)))
            passed.append(x)
        found.append(max(passed, key=lambda each: float(value(each))))
    return mean_entropy(weights, found, batch, 0.1)


def free(weights: Weights, batch: Examples) -> Tensor:
    return mean_entropy(weights, [(x + 0.05 * x).clamp(0, 1) for x in batch.x], batch, 0.1)


PLAIN: dict[str, tuple[Objective, Callable[[Weights, Examples], Tensor], int]] = {
    "standard": (Standard(smoothing=0.1), standard, CLASSES),
    "adversarial": (Adversarial(PGD2, smoothing=0.2), adversarial, CLASSES),
    "adversarial, kl": (Adversarial(PGD2, climbs="kl"), adversarial_kl, CLASSES),
    "gaussian_noise": (GaussianNoise(sigma=0.2, share=0.4), gaussian_noise, CLASSES),
    "augmix": (AugMix(severity=2, width=2, weight=7), consistent, CLASSES),
    "free": (Free(smoothing=0.1), free, CLASSES),
    "mat": (MAT(PGD(steps=2, start="clean"), smoothing=0.1), mat, CLASSES),
    "mat, worst": (MAT(PGD(steps=2, start="clean"), how="worst"), mat_worst, CLASSES),
    "msd": (MSD(steps=4, alpha=0.4, smoothing=0.1), msd, CLASSES),
    "trades": (TRADES(PGD2, beta=5, smoothing=0.2), trades, CLASSES),
    "mart": (MART(PGD2, beta=4), mart, CLASSES),
    "hat": (HAT(PGD2, helper=Net(seed=5), beta=2, gamma=0.3, reach=1.7), hat, CLASSES),
    "alp": (ALP(PGD2, weight=0.7), alp, CLASSES),
    "clp": (CLP(weight=0.6, sigma=0.2), clp, CLASSES),
    "mixup": (Mixup(alpha=0.8), mixup, CLASSES),
    "mixup, attacked": (Mixup(PGD2, alpha=1.4), mixup_attacked, CLASSES),
    "cutmix": (CutMix(), cutmix, CLASSES),
    "cutmix, attacked": (CutMix(PGD2), cutmix_attacked, CLASSES),
    "interpolated": (Interpolated(PGD2), interpolated, CLASSES),
    "avmixup": (AVMixup(PGD2, reach=1.5, kept=0.9, kept_out=0.2), avmixup, CLASSES),
    "half_clean": (HalfClean(PGD2, share=0.4, weight=0.3, smoothing=0.1), half_clean, CLASSES),
    "extra_class": (ExtraClass(PGD2, weight=0.8), extra_class, CLASSES + 1),
}


def examples(count: int = 7, seed: int = 1) -> Examples:
    x = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Examples(x, torch.arange(count) % CLASSES, keys.fold(keys.root(seed), torch.arange(count)))


def threat(name: str) -> Threat:
    return UNION if name.startswith(("mat", "msd")) else LINF


def test_every_objective_has_a_plain_loop() -> None:
    assert {name.partition(",")[0] for name in PLAIN} == set(registry.names("objective"))


@pytest.mark.parametrize("name", PLAIN)
def test_the_value_and_the_gradient_are_the_plain_loops(name: str) -> None:
    objective, plain, classes = PLAIN[name]
    for seed in (1, 2, 3):
        net, batch = Net(classes), examples(seed=seed)
        if name == "free":
            batch = batch._replace(delta=0.05 * batch.x)
        terms, weights = objective(net, batch, threat(name)), net.weights()
        wanted = plain(weights, batch)
        assert torch.allclose(terms.loss, wanted, rtol=1e-10)
        terms.loss.backward()
        for found, slow in zip((net.first.grad, net.second.grad), torch.autograd.grad(wanted, weights)):
            assert torch.allclose(found, slow, rtol=1e-8, atol=1e-12)


def test_the_parts_add_up() -> None:
    parts = {name: (objective(Net(classes), examples(), LINF)) for name, (objective, _, classes) in PLAIN.items()}
    for name, weights in {
        "trades": {"clean": 1, "divergence": 5},
        "mart": {"boosted": 1, "divergence": 4},
        "hat": {"clean": 1, "divergence": 2, "helper": 0.3},
        "alp": {"entropy": 1, "apart": 0.7},
        "clp": {"entropy": 1, "apart": 0.6},
        "interpolated": {"clean": 0.5, "adversarial": 0.5},
        "half_clean": {"clean": 4 / 4.9, "adversarial": 0.9 / 4.9},
        "extra_class": {"clean": 1, "detection": 0.8},
    }.items():
        total = sum(weight * parts[name].parts[part] for part, weight in weights.items())
        assert torch.allclose(total, parts[name].loss), name


# The draws.


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 1.4, 5.0])
def test_weights_are_of_the_beta_distribution(alpha: float) -> None:
    key = keys.fold(keys.root(0), torch.arange(50000))
    found = symmetric_beta(key, alpha)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert stats.kstest(found.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert torch.equal(symmetric_beta(key[[7]], alpha), found[[7]])


def test_tiny_and_huge_alphas_draw_numbers() -> None:
    key = keys.fold(keys.root(0), torch.arange(1000))
    for alpha in (1e-8, 1e-3, 1e8):
        found = symmetric_beta(key, alpha)
        assert bool(((found >= 0) & (found <= 1)).all())


def test_partners_are_a_circle_that_the_keys_arrange() -> None:
    for count in (1, 2, 3, 50):
        key = keys.fold(keys.root(count), torch.arange(count))
        found, seen, here = partners(key), [], 0
        for _ in range(count):
            seen.append(here)
            here = int(found[here])
        assert here == 0 and sorted(seen) == list(range(count))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        turned = partners(key[order])
        assert torch.equal(order[turned], found[order])


def test_partners_are_as_good_as_random() -> None:
    count = 12
    key = keys.fold(keys.fold(keys.root(0), torch.arange(4000))[:, None], torch.arange(count))
    found = torch.stack([partners(each) for each in key])
    table = torch.stack([(found[:, row : row + 1] == torch.arange(count)).sum(0) for row in range(count)])
    assert table.diagonal().sum() == 0
    apart = table[~torch.eye(count, dtype=torch.bool)].double()
    assert stats.chisquare(apart.numpy()).pvalue > 0.01


def test_the_boxes_of_cutmix_are_those_of_the_paper() -> None:
    """Where each pixel says whose it is, the share of the label is the area, and boxes lie anywhere."""
    count, size = 2000, 32
    x = torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1).expand(count, 1, size, size)
    batch = Examples(x, torch.arange(count), keys.fold(keys.root(0), torch.arange(count)))
    mixture = CutMix()._cut(batch)
    own = mixture.x == x
    assert torch.allclose(own.double().mean((1, 2, 3)), mixture.share)
    assert torch.equal(mixture.x.masked_select(~own), mixture.other.double().view(-1, 1, 1, 1).expand_as(x)[~own])
    boxes = ~own[:, 0]
    high, wide = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(high * wide, boxes.sum((1, 2)))  # rectangles
    cover = boxes.double().mean(0)
    assert 0.4 < float(cover[16, 16]) < 0.5 and float(cover[0, 0]) < 0.7 * float(cover[16, 16])  # cut off at the rim
    assert torch.allclose(cover, cover.T, atol=0.05) and torch.allclose(cover, cover.flip(0), atol=0.05)
    none, some = CutMix(share=0.0)._cut(batch), CutMix(share=0.25)._cut(batch)
    assert torch.equal(none.x, x) and torch.equal(none.share, torch.ones(count, dtype=torch.float64))
    assert abs(float((some.share < 1).double().mean()) - 0.25 * float((mixture.share < 1).double().mean())) < 0.03


def test_an_image_s_draws_do_not_depend_on_its_batch() -> None:
    batch = examples(6)
    whole, share = mixed(batch, 1.0), symmetric_beta(batch.key, 1.0)
    alone = mixed(Examples(*(part[2:3] for part in batch[:3])), 1.0)
    assert torch.equal(whole.share, share) and torch.equal(alone.share, share[2:3])
    assert torch.allclose(alone.x, batch.x[2:3])


# The search.


def test_a_divergence_is_climbed_from_the_clean_image_itself() -> None:
    """Its gradient vanishes there; a sign of rounding errors must not be what FGSM follows."""
    net, batch = Net().requires_grad_(False), examples(40)
    clean, generator = net(batch.x).softmax(1), torch.Generator().manual_seed(0)
    signs = torch.rand(batch.x.shape, dtype=torch.float64, generator=generator).sub(0.5).sign()

    def far(x: Tensor) -> float:
        return float((clean * (clean.log() - net(x).log_softmax(1))).sum(1).mean())

    for attack in (FGSM(), NFGSM(), PGD(steps=2), PGD2):
        x = diverging(attack, net, batch, LINF)
        assert far(x) > 3 * far((batch.x + EPS * signs).clamp(0, 1))
    assert float((diverging(PGD2, net, batch, LINF) - batch.x).abs().max()) <= EPS + 1e-12


def test_the_search_climbs_what_it_is_told_in_any_set() -> None:
    net, batch = Net(), examples(30)
    threat, none = L2(0.5), torch.full((30,), -1)
    x = search(PGD(steps=3), net, batch, threat, rises=lambda z, y, target: z[:, 0])
    assert (net(x)[:, 0] > net(batch.x)[:, 0]).all() and float((threat.distance(batch.x, x) - 0.5).max()) < 1e-9
    plain = search(PGD(steps=3), net, batch, threat)
    same = search(PGD(steps=3), net, batch, threat, rises=lambda z, y, t: F.cross_entropy(z, y, reduction="none"))
    assert torch.allclose(plain, same) and not plain.requires_grad
    assert (undetected(net(x), batch.y.clamp(max=1), none).shape) == (30,)


def test_only_the_part_that_is_replaced_is_attacked() -> None:
    net, seen = Net(), []
    net.register_forward_pre_hook(lambda module, given: seen.append((module.training, len(given[0]))))
    HalfClean(PGD2)(net.train(), examples(8), LINF)
    assert seen == [(False, 4), (False, 4), (True, 8)]


@pytest.mark.parametrize(
    ("name", "searching", "training"),
    [
        ("trades", [7] * 3, [7] * 2),
        ("hat", [7] * 3, [7] * 3),
        ("mart", [7] * 2, [7] * 2),
        ("alp", [7] * 2, [14]),
        ("interpolated", [7] * 2, [7] * 2),
        ("avmixup", [7] * 2, [7]),
        ("extra_class", [7] * 2, [14]),
        ("mixup", [], [7]),
        ("free", [], [7]),
        ("mat", [7] * 6, [21]),
        ("mat, worst", [7] * 9, [7]),
        ("msd", [7] * 16, [7]),
    ],
)
def test_what_it_costs(name: str, searching: list[int], training: list[int]) -> None:
    """With two steps, in eval mode; TRADES evaluates the clean images once more there. MSD takes four, in three parts."""
    objective, _, classes = PLAIN[name]
    net, seen = Net(classes).train(), []
    net.register_forward_pre_hook(lambda module, given: seen.append((module.training, len(given[0]))))
    objective(net, examples(), threat(name))
    assert seen == [(False, count) for count in searching] + [(True, count) for count in training]


def test_a_helper_is_left_as_it_was_and_labels_the_adversarial_points() -> None:
    helper, batch, labelled = nn.Sequential(nn.Dropout(0.9), Net(seed=5)), examples(40), []
    helper.register_forward_hook(lambda module, given, out: labelled.append((module.training, out.argmax(1))))
    HAT(PGD2, helper=helper.train())(Net(), batch, LINF)
    ((mode, labels),) = labelled
    assert not mode and helper[0].training and all(each.requires_grad for each in helper.parameters())
    assert not torch.equal(labels, helper[1](batch.x).argmax(1))


# Where floats end.


def test_certain_predictions_give_no_nan() -> None:
    for scale in (1e3, 1e5):
        for name, (objective, _, classes) in PLAIN.items():
            net = Net(classes).float()
            with torch.no_grad():
                net.second *= scale
            batch = examples()
            if isinstance(objective, HAT):
                objective = HAT(PGD2, helper=Net(seed=5).float())
            terms = objective(net, batch._replace(x=batch.x.float()), threat(name))
            terms.loss.backward()
            assert bool(torch.isfinite(terms.loss))
            assert all(bool(torch.isfinite(each.grad).all()) for each in net.parameters())


def test_boosted_cross_entropy_where_a_wrong_class_is_certain() -> None:
    z = torch.tensor([[0.0, 200.0, 1.0], [200.0, 0.0, 1.0]], requires_grad=True)
    value = boosted_ce(z, torch.tensor([0, 0]))
    assert torch.allclose(value.detach(), torch.tensor([200 + 199 - 0.3132617, 0.0]), atol=1e-3)
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), z)[0]).all())
    z = torch.randn(5, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1, 0])
    assert torch.allclose(boosted_ce(z, y), 2 * F.cross_entropy(z, y, reduction="none"))  # with two classes


def test_the_adaptive_margin_of_a_class_for_adversarial_inputs() -> None:
    z = torch.tensor([[1.0, 3.0, 2.0, 0.0], [1.0, 3.0, 2.0, 5.0], [4.0, 3.0, 2.0, 0.0]])
    y, none = torch.zeros(3, dtype=torch.int64), torch.full((3,), -1)
    assert undetected(z, y, none).tolist() == [2.0, -2.0, -1.0]  # fooled; fooled but detected; right
    assert undetected(z, y, torch.full((3,), 2)).tolist() == [1.0, -3.0, -2.0]


# That they learn.

OBJECTIVES: dict[str, Callable[[Attack], Objective]] = {
    "trades": TRADES,
    "mart": MART,
    "hat": lambda attack: HAT(attack, helper=helper()),
    "alp": ALP,
    "mixup": Mixup,
    "cutmix": CutMix,
    "interpolated": Interpolated,
    "avmixup": AVMixup,
    "half_clean": HalfClean,
    "extra_class": ExtraClass,
}
ATTACKS = {"fgsm": FGSM(), "n_fgsm": NFGSM(), "pgd-2": PGD(steps=2)}
PLAINLY = {"mixup": Mixup(), "cutmix": CutMix(), "clp": CLP(sigma=0.1)}
ONCE = {"free": Free(), "mat": MAT(PGD(steps=2), how="worst"), "msd": MSD(steps=3, alpha=0.5)}
CELLS = [(name, by) for name in OBJECTIVES for by in ATTACKS] + [(name, "none") for name in (PLAINLY | ONCE)]


def learner(outputs: int, seed: int = 0) -> Net:
    net = Net(outputs, seed, inputs=64, hidden=32).float()
    with torch.no_grad():
        net.second.div_(6)
    return net


@cache
def digits() -> tuple[Tensor, Tensor]:
    source = load("digits:train")
    images, labels = source.take(source.ids[:40])
    return F.avg_pool2d(torch.from_numpy(images).float() / 255, 4), torch.from_numpy(labels)


def train(net: nn.Module, objective: Objective, threat: Threat = LINF) -> list[float]:
    (x, y), losses, delta = digits(), [], None
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
    key = keys.fold(keys.root(0), torch.arange(len(x)))
    for step in range(200):
        with frozen(net):
            prepared = objective.prepare(net, Examples(x, y, keys.fold(key, step), delta), threat)
        loss = objective.terms(net, prepared).loss
        optimiser.zero_grad()
        loss.backward()
        if isinstance(objective, Carrying):
            delta = objective.carried(prepared, threat)
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@cache
def helper() -> nn.Module:
    net = learner(10, seed=1).train()
    train(net, Standard())
    return net


@pytest.mark.parametrize(("name", "by"), CELLS)
def test_it_lowers_its_loss_without_collapse(name: str, by: str) -> None:
    objective = (PLAINLY | ONCE)[name] if by == "none" else OBJECTIVES[name](ATTACKS[by])
    net = learner(11 if name == "extra_class" else 10).train()
    losses = train(net, objective, threat(name))
    first, last = sum(losses[:5]) / 5, sum(losses[-20:]) / 20
    x, y = digits()
    with torch.no_grad():
        predicted = net(x)[:, :10].argmax(1)
    right = float((predicted == y).float().mean())
    robust = float((~PGD(steps=5)(net, x, y, threat=LINF).fooled).float().mean())
    assert last < 0.8 * first and right > 0.9
    if name != "extra_class":  # which calls everything attacked the extra class; see below
        assert robust > 0.8 if by != "none" or name in ONCE else name == "clp" or robust < 0.2


def test_a_class_for_adversarial_inputs_falls_to_the_attack_that_knows_of_it() -> None:
    net, (x, y), threat, none = learner(11), digits(), Linf(0.15), torch.full((40,), -1)
    train(net.train(), ExtraClass(PGD(steps=2)), threat)
    batch = Examples(x, y, keys.fold(keys.root(7), torch.arange(40)))
    blind = search(PGD(steps=40), lambda images: net(images)[:, :10], batch, threat)
    knowing = search(PGD(steps=40), net, batch, threat, rises=undetected)
    with torch.no_grad():
        alarms, detected = ((net(each).argmax(1) == 10).float().mean() for each in (x, blind))
        missed, missed_too = ((undetected(net(each), y, none) > 0).float().mean() for each in (blind, knowing))
    assert alarms <= 0.1 and detected > 0.9 and missed < 0.1 and missed_too > 0.6


# What makes no sense.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TRADES(APGD()), "APGD climbs a loss of its own"),
        (lambda: HAT(APGD()), "APGD climbs a loss of its own"),
        (lambda: Mixup(APGD()), "APGD climbs a loss of its own"),
        (lambda: CutMix(APGD()), "APGD climbs a loss of its own"),
        (lambda: TRADES(PGD2, beta=-1.0), "beta is -1.0"),
        (lambda: TRADES(PGD2, smoothing=1.1), "smoothing is 1.1"),
        (lambda: MART(PGD2, beta=float("nan")), "beta is nan"),
        (lambda: HAT(PGD2, gamma=-0.5), "gamma is -0.5"),
        (lambda: HAT(PGD2, reach=float("inf")), "reach is inf"),
        (lambda: ALP(PGD2, weight=-1), "weight is -1"),
        (lambda: CLP(weight=-1), "weight is -1"),
        (lambda: CLP(sigma=-1), "sigma is -1"),
        (lambda: Mixup(alpha=0.0), "alpha is 0.0"),
        (lambda: CutMix(alpha=-1.0), "alpha is -1.0"),
        (lambda: CutMix(share=2.0), "share is 2.0"),
        (lambda: Interpolated(PGD2, alpha=0.0), "alpha is 0.0"),
        (lambda: AVMixup(PGD2, reach=-1), "reach is -1"),
        (lambda: AVMixup(PGD2, kept=1.5), "kept is 1.5"),
        (lambda: AVMixup(PGD2, kept_out=-0.1), "kept_out is -0.1"),
        (lambda: HalfClean(PGD2, share=1.5), "share is 1.5"),
        (lambda: HalfClean(PGD2, weight=0.0), "weight is 0.0"),
        (lambda: ExtraClass(PGD2, weight=-1), "weight is -1"),
        (lambda: Free(alpha=0.0), "alpha is 0.0"),
        (lambda: Free(smoothing=2.0), "smoothing is 2.0"),
        (lambda: MSD(steps=0), "steps is 0"),
        (lambda: MSD(alpha=-1.0), "alpha is -1.0"),
        (lambda: MAT(PGD2, smoothing=-1.0), "smoothing is -1.0"),
        (lambda: HAT(PGD2)(Net(), examples(), LINF), "hat has no helper"),
        (lambda: MART(FGSM())(Net(), examples(), _spatial()), "FGSM cannot search the threat 'spatial'"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        make()


def _spatial() -> object:
    from holdfast.threats.spatial import Spatial

    return Spatial(10)


def test_a_net_without_the_extra_output_is_refused() -> None:
    with pytest.raises(BadModel, match=r"3 outputs, and a label is 2(.|\n)*4 classes or more"):
        ExtraClass(PGD2)(Net(), examples(), LINF)


def test_what_an_instance_declares() -> None:
    assert Mixup().operations == ("mixup",) and CutMix().operations == ("cutmix",)
    assert Mixup(PGD2).operations == ("mixup", "adversarial") and CutMix(PGD2).operations == ("cutmix", "adversarial")
    assert Mixup.operations == ("mixup",) and CutMix.operations == ("cutmix",)


def test_extremes_are_what_they_should_be() -> None:
    """A radius of 0, nothing replaced, all replaced: plain training, or plain adversarial training."""
    net, batch, zero = Net(), examples(), Linf(0)
    clean = F.cross_entropy(net(batch.x), batch.y)
    adversarial = Adversarial(PGD2)(net, batch, LINF).loss
    for objective in (TRADES(PGD2), HalfClean(PGD2), ALP(PGD2), HAT(PGD2, helper=Net(seed=5), gamma=0)):
        assert torch.allclose(objective(net, batch, zero).loss, clean)
    assert torch.allclose(HalfClean(PGD2, share=0)(net, batch, LINF).loss, clean)
    assert torch.allclose(HalfClean(PGD2, share=1)(net, batch, LINF).loss, adversarial)
    assert torch.allclose(MART(PGD2, beta=0)(net, batch, zero).loss, boosted_ce(net(batch.x), batch.y).mean())
    assert torch.allclose(CLP(weight=0, sigma=0)(net, batch, LINF).loss, clean)
    assert torch.allclose(AVMixup(PGD2, reach=0, kept_out=1.0)(net, batch, LINF).loss, clean)
    assert torch.allclose(CutMix(share=0)(net, batch, LINF).loss, clean)
