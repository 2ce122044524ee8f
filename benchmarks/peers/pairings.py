"""Which attack stands beside which: the same threat and budget, as data.

A pairing names our attack, the threat set, and for each library that has the attack how it is set up. Attacks that look for
the largest loss get the subject's radius, those that look for the smallest distance one that no image reaches. Where a
library counts in other units than queries, ours gets as many queries as that library then took (``matched``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.ascent.attack import Attack
from holdfast.attacks.apgd import APGD
from holdfast.attacks.boundary import Boundary
from holdfast.attacks.cw import CW
from holdfast.attacks.ddn import DDN
from holdfast.attacks.deep_fool import DeepFool
from holdfast.attacks.di import DI
from holdfast.attacks.ead import EAD
from holdfast.attacks.fab import FAB
from holdfast.attacks.fmn import FMN
from holdfast.attacks.geo_da import GeoDA
from holdfast.attacks.hop_skip_jump import HopSkipJump
from holdfast.attacks.jsma import JSMA
from holdfast.attacks.mim import MIM
from holdfast.attacks.nes import NES
from holdfast.attacks.ni import NI
from holdfast.attacks.pgd import PGD
from holdfast.attacks.si import SI
from holdfast.attacks.sparse_fool import SparseFool
from holdfast.attacks.spatial_grid import SpatialGrid
from holdfast.attacks.spsa import SPSA
from holdfast.attacks.square import Square
from holdfast.attacks.ti import TI
from holdfast.attacks.vmi import VMI
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.spatial import SHIFT, Spatial
from holdfast.threats.threat import Threat
from peers.libraries import Build
from peers.subjects import Subject

STEP_SHARE = 1 / 30
"""PGD's step length as a share of the radius: Foolbox's default."""
ANGLE = 20
"""Degrees, for spatial transformations."""


SETS: dict[str, Callable[[float], Threat]] = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0, "spatial": Spatial}


@dataclass(frozen=True)
class Pairing:
    """Our attack and its peers.

    Args:
        name: what the table calls it.
        attack: ours, as it is or made for a subject.
        norm: the threat set.
        peers: for each library how its attack is set up.
        n: how many images at most.
        rounds: how many timed rounds at most, fewer where a peer is slow.
        matched: ours takes as many queries as the peer took; there is one peer then.
    """

    name: str
    attack: Attack | Callable[[Subject], Attack]
    norm: str
    peers: Mapping[str, Build]
    n: int = 100
    rounds: int = 7
    matched: bool = False

    def ours(self, subject: Subject, queries: float | None = None) -> Attack:
        attack = self.attack if isinstance(self.attack, Attack) else self.attack(subject)
        if not self.matched or queries is None:
            return attack
        # Of its queries one looks at the clean image and one is the last judgement.
        return dataclasses.replace(attack, steps=max(1, round(queries) - 2))  # type: ignore[type-var, call-arg]

    def threat(self, subject: Subject) -> Threat:
        if self.minimal:
            values = subject.x[0].numel()
            return {"linf": Linf(1), "l2": L2(1e3), "l1": L1(values), "l0": L0(values)}[self.norm]
        return SETS[self.norm](_radius(subject, self.norm))

    @property
    def minimal(self) -> bool:
        """Whether the attacks look for the smallest distance."""
        return isinstance(self.attack, Attack) and self.attack.goal == "minimal"


def _radius(s: Subject, norm: str) -> float:
    pixels = s.x.shape[2] * s.x.shape[3]
    return {"linf": s.eps, "l2": s.euclidean, "l1": 8 * s.euclidean, "l0": pixels // 10, "spatial": ANGLE}[norm]


def _pgd(s: Subject) -> Attack:
    return PGD(40, step_size=s.eps * STEP_SHARE)


def _transfer(kind: str, steps: int = 10, **options: Any) -> Build:
    """torchattacks' attacks along momentum, in ``steps`` steps that together are as long as the radius."""
    return lambda t, s: getattr(t, kind)(s.net, eps=s.eps, alpha=s.eps / steps, steps=steps, **options)


def _blended(f: Any) -> Any:
    return f.LinearSearchBlendedUniformNoiseAttack(steps=50)


class _RunnerUp:
    """ART's JSMA wants a target, one-hot: the class of the second largest logit."""

    def __init__(self, attack: Any, s: Subject) -> None:
        self.attack, self.net = attack, s.net

    def generate(self, x: Any, y: Any) -> Any:
        logits = self.net(torch.from_numpy(x))
        target = logits.scatter(1, torch.from_numpy(y)[:, None], -torch.inf).argmax(1)
        return self.attack.generate(x, torch.nn.functional.one_hot(target, logits.shape[1]).numpy())


def _foolbox_spatial(f: Any, s: Subject) -> Any:
    # Foolbox moves an image of W pixels by (W - 1) / W of the pixels that it is given.
    width = s.x.shape[3]
    reach = SHIFT * ANGLE * width * width / (width - 1)
    return f.SpatialAttack(max_translation=reach, max_rotation=ANGLE, num_translations=5, num_rotations=7)


def _adv(kind: str, **options: Any) -> Build:
    return lambda a, s: functools.partial(getattr(a, kind), **options)


INF = float("inf")

PAIRINGS = (
    Pairing("PGD-40", _pgd, "linf", {
        "torchattacks": lambda t, s: t.PGD(s.net, eps=s.eps, alpha=s.eps * STEP_SHARE, steps=40),
        "foolbox": lambda f, s: f.LinfPGD(abs_stepsize=s.eps * STEP_SHARE, steps=40),
        "art": lambda a, s: a.ProjectedGradientDescentPyTorch(
            eps=s.eps, eps_step=s.eps * STEP_SHARE, max_iter=40, num_random_init=1, batch_size=500),
        "adv_lib": lambda a, s: functools.partial(a.pgd_linf, ε=s.eps, steps=40, relative_step_size=STEP_SHARE),
    }, n=500),
    Pairing("APGD-100", APGD(100), "linf", {
        "torchattacks": lambda t, s: t.APGD(s.net, norm="Linf", eps=s.eps, steps=100, seed=0, loss="ce"),
        "art": lambda a, s: a.AutoProjectedGradientDescent(
            eps=s.eps, eps_step=2 * s.eps, max_iter=100, nb_random_init=1, batch_size=500, loss_type="cross_entropy"),
        "adv_lib": lambda a, s: functools.partial(a.apgd, eps=s.eps, norm=INF, n_iter=100, loss_function="ce"),
    }, n=500),
    Pairing("MIM-10", MIM(10), "linf", {
        "torchattacks": _transfer("MIFGSM"),
        "foolbox": lambda f, s: f.LinfMomentumIterativeFastGradientMethod(abs_stepsize=s.eps / 10, steps=10),
        "art": lambda a, s: a.MomentumIterativeMethod(eps=s.eps, eps_step=s.eps / 10, max_iter=10, batch_size=500),
    }, n=200),
    Pairing("NI-10", NI(10), "linf", {"torchattacks": _transfer("NIFGSM")}, n=200),
    Pairing("DI-10", DI(10), "linf", {"torchattacks": _transfer("DIFGSM", decay=1.0)}, n=200),
    Pairing("TI-10", TI(10, probability=0.5), "linf", {"torchattacks": _transfer("TIFGSM", decay=1.0, len_kernel=7)}, n=200),
    Pairing("SI-10", SI(10), "linf", {"torchattacks": _transfer("SINIFGSM")}, n=200),
    Pairing("VMI-10", VMI(10, neighbours=5), "linf", {"torchattacks": _transfer("VMIFGSM", N=5)}, n=200),
    Pairing("CW-9x100 L2", CW(100), "l2", {
        "foolbox": lambda f, s: f.L2CarliniWagnerAttack(binary_search_steps=9, steps=100),
        "adv_lib": _adv("carlini_wagner_l2", binary_search_steps=9, max_iterations=100),
    }, n=100, rounds=3),
    Pairing("CW-900 L2", CW(100), "l2", {
        # One constant, 1, as its documentation has it.
        "torchattacks": lambda t, s: t.CW(s.net, c=1, steps=900, lr=0.01),
    }, n=100, rounds=3),
    # ART's iterations search along lines: 20 of them take more evaluations than 100 of ours.
    Pairing("CW-9x100 L2, theirs 9x20", CW(100), "l2", {
        "art": lambda a, s: a.CarliniL2Method(binary_search_steps=9, max_iter=20, batch_size=100),
    }, n=10, rounds=3),
    Pairing("CW-9x100 Linf", CW(100), "linf", {"adv_lib": _adv("carlini_wagner_linf", max_iterations=100)}, n=20, rounds=3),
    Pairing("DeepFool-50 L2", DeepFool(), "l2", {
        "torchattacks": lambda t, s: t.DeepFool(s.net, steps=50),
        "foolbox": lambda f, s: f.L2DeepFoolAttack(steps=50),
        "art": lambda a, s: a.DeepFool(max_iter=50, nb_grads=10, batch_size=100),
        "adv_lib": _adv("df", steps=50, norm=2),
    }, n=50, rounds=3),
    Pairing("DeepFool-50 Linf", DeepFool(), "linf", {
        "foolbox": lambda f, s: f.LinfDeepFoolAttack(steps=50),
        "adv_lib": _adv("df", steps=50, norm=INF),
    }),
    Pairing("DDN-100", DDN(100), "l2", {
        "foolbox": lambda f, s: f.DDNAttack(steps=100),
        "adv_lib": _adv("ddn", steps=100, levels=None),
    }),
    *(
        Pairing(f"FMN-100 {norm.capitalize()}", FMN(100), norm, {
            "foolbox": lambda f, s, kind=kind: getattr(f, kind)(steps=100),
            "adv_lib": _adv("fmn", norm=number, steps=100),
        })
        for norm, kind, number in (
            ("linf", "LInfFMNAttack", INF), ("l2", "L2FMNAttack", 2), ("l1", "L1FMNAttack", 1), ("l0", "L0FMNAttack", 0))
    ),
    Pairing("EAD-9x100", EAD(100), "l1", {
        "torchattacks": lambda t, s: t.EADL1(s.net, binary_search_steps=9, max_iterations=100, beta=0.01),
        "foolbox": lambda f, s: f.EADAttack(binary_search_steps=9, steps=100, decision_rule="L1"),
    }, n=50, rounds=3),
    Pairing("EAD-9x100, theirs 9x20", EAD(100), "l1", {
        "art": lambda a, s: a.ElasticNet(
            binary_search_steps=9, max_iter=20, beta=0.01, batch_size=100, decision_rule="L1"),
    }, n=10, rounds=3),
    Pairing("JSMA", JSMA(targets=1), "l0", {
        "torchattacks": lambda t, s: t.JSMA(s.net, theta=1.0, gamma=0.1),
        "art": lambda a, s: _RunnerUp(a.SaliencyMapMethod(theta=1.0, gamma=0.1, batch_size=100), s),
    }, n=5, rounds=3),
    Pairing("SparseFool-10 L0", SparseFool(), "l0", {
        "torchattacks": lambda t, s: t.SparseFool(s.net, steps=10, lam=3),
    }, n=10, rounds=3),
    Pairing("SparseFool-10 L1", SparseFool(), "l1", {
        "torchattacks": lambda t, s: t.SparseFool(s.net, steps=10, lam=1),
    }, n=10, rounds=3),
    # About 600 evaluations: a step of the peers takes the gradients of all ten classes, one of ours that of one target.
    *(
        Pairing(f"FAB-600 {norm.capitalize()}", FAB(33, targets=9), norm, {
            "torchattacks": lambda t, s, norm=norm: t.FAB(s.net, norm=norm.capitalize(), eps=_radius(s, norm), steps=50),
            "adv_lib": lambda a, s, norm=norm, number=number: functools.partial(
                a.fab, norm=number, n_iter=50, ε=_radius(s, norm)),
        }, n=50, rounds=3)
        for norm, number in (("linf", INF), ("l2", 2))
    ),
    # torchattacks' FAB stops in L1 on an unbound variable.
    Pairing("FAB-600 L1", FAB(33, targets=9), "l1", {
        "adv_lib": lambda a, s: functools.partial(a.fab, norm=1, n_iter=50, ε=_radius(s, "l1")),
    }, n=50, rounds=3),
    *(
        Pairing(f"Square-1000 {norm.capitalize()}", Square(1000, rescale=True), norm, {
            "torchattacks": lambda t, s, norm=norm: t.Square(
                s.net, norm=norm.capitalize(), eps=_radius(s, norm), n_queries=1000),
            "art": lambda a, s, norm=norm, number=number: a.SquareAttack(
                norm=number, eps=_radius(s, norm), max_iter=1000, batch_size=500),
        }, n=50, rounds=5)
        for norm, number in (("linf", INF), ("l2", 2))
    ),
    *(
        Pairing(f"{type(attack).__name__}", attack, "linf", {
            "torchattacks": lambda t, s: t.SPSA(s.net, eps=s.eps, lr=0.01, nb_iter=10, nb_sample=64),
        }, n=20, rounds=3, matched=True)
        for attack in (NES(), SPSA())
    ),
    Pairing("Boundary", Boundary(), "l2", {
        "foolbox": lambda f, s: f.BoundaryAttack(init_attack=_blended(f), steps=1500),
    }, n=100, rounds=3, matched=True),
    Pairing("Boundary", Boundary(), "l2", {
        "art": lambda a, s: a.BoundaryAttack(targeted=False, max_iter=60),
    }, n=5, rounds=3, matched=True),
    *(
        Pairing(f"HopSkipJump {norm.capitalize()}", HopSkipJump(), norm, {
            "foolbox": lambda f, s, norm=norm: f.HopSkipJumpAttack(init_attack=_blended(f), steps=8, constraint=norm),
        }, n=100, rounds=3, matched=True)
        for norm in ("l2", "linf")
    ),
    Pairing("HopSkipJump L2", HopSkipJump(), "l2", {
        "art": lambda a, s: a.HopSkipJump(norm=2, max_iter=8, init_eval=100),
    }, n=5, rounds=3, matched=True),
    Pairing("GeoDA", GeoDA(), "l2", {"art": lambda a, s: a.GeoDA(norm=2, max_iter=2000)}, n=5, rounds=3, matched=True),
    Pairing("spatial grid 7x5x5", SpatialGrid(angles=7, shifts=5), "spatial", {"foolbox": _foolbox_spatial}),
)  # fmt: skip
