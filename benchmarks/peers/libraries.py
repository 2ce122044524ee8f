"""The libraries, each called as its documentation does."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.threats.threat import Threat
from peers.subjects import Subject

PEERS = {"torchattacks": "3.5.1", "foolbox": "3.3.4", "art": "1.20.1", "adv_lib": "0.2.8"}
"""Optional libraries, by the name they are imported with, and the versions that the script was written for."""
DISTRIBUTIONS = {"art": "adversarial-robustness-toolbox", "adv_lib": "adv-lib"}
"""What pip calls those whose name differs."""
BROKEN_BY = {"adv_lib": "adv_lib.attacks"}
"""A part that has to be importable as well: adv-lib needs torchvision and visdom there."""

Build = Callable[[Any, Subject], Any]
"""(the library, the subject) -> its attack, set up as for that subject."""
Find = Callable[[Subject, int], Tensor]
"""(subject, seed) -> the points that a library hands to its user, (N, C, H, W)."""


def ours(attack: Attack, threat: Threat) -> Find:
    return lambda subject, seed: attack(subject.net, subject.x, subject.y, threat=threat, seed=seed).x


def theirs(name: str, build: Build, threat: Threat, *, minimal: bool) -> Find:
    """``minimal``: the attack looks for the smallest distance and knows no radius."""
    package = importlib.import_module(BROKEN_BY.get(name, name))

    def find(subject: Subject, seed: int) -> Tensor:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - Foolbox and ART draw from it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CALLS[name](package, build, subject, None if minimal else threat.eps).detach()

    return find


def _torchattacks(package: Any, build: Build, subject: Subject, eps: float | None) -> Tensor:
    return build(package, subject)(subject.x, subject.y)


def _foolbox(package: Any, build: Build, subject: Subject, eps: float | None) -> Tensor:
    model = package.PyTorchModel(subject.net, bounds=(0, 1), device=subject.x.device)
    return build(package.attacks, subject)(model, subject.x, subject.y, epsilons=eps)[1]


def _art(package: Any, build: Build, subject: Subject, eps: float | None) -> Tensor:
    classifiers = importlib.import_module("art.estimators.classification")
    evasion = importlib.import_module("art.attacks.evasion")
    logging.getLogger("art").setLevel(logging.ERROR)
    if not hasattr(np, "mat"):  # GeoDA wants it; NumPy 2 has it under another name
        np.mat = np.asmatrix  # type: ignore[attr-defined]  # noqa: NPY201
    shape = tuple(subject.x.shape[1:])
    wrapped = classifiers.PyTorchClassifier(
        _Single(subject.net), nn.CrossEntropyLoss(), shape, nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    attack = build(_Estimated(evasion, wrapped), subject)
    return torch.tensor(attack.generate(subject.x.numpy(), y=subject.y.numpy()))


class _Single(nn.Module):
    """The model in single precision: ART asks in double where its draws are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float())


class _Estimated:
    """ART's attacks with the estimator that all of them want first filled in, one batch at a time and without a bar."""

    def __init__(self, evasion: Any, estimator: Any) -> None:
        self.evasion, self.estimator = evasion, estimator

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return lambda **options: getattr(self.evasion, kind)(self.estimator, verbose=False, **options)


def _adv_lib(package: Any, build: Build, subject: Subject, eps: float | None) -> Tensor:
    return build(package, subject)(subject.net, subject.x, subject.y)


CALLS: dict[str, Callable[[Any, Build, Subject, float | None], Tensor]] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "art": _art,
    "adv_lib": _adv_lib,
}


def installed() -> tuple[list[str], list[str]]:
    """Those that can be imported, and a line about each that cannot."""
    found, missing = [], []
    for name in PEERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(BROKEN_BY.get(name, name))
        except Exception as error:  # a foreign package may raise anything at import
            wanted = f"{DISTRIBUTIONS.get(name, name)} {PEERS[name]}"
            missing.append(f"{name}: cannot be imported ({error}); needs {wanted} or newer")
        else:
            found.append(name)
    return found, missing


def versions() -> dict[str, str]:
    known = {}
    for name in PEERS:
        try:
            known[name] = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return known
