"""The contract of attacks, for every registered attack on every set that it declares."""

from __future__ import annotations

import dataclasses

import attack_contract as contract
import pytest

from holdfast.ascent.attack import Attack
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.foundation import registry
from holdfast.threats.threat import Threat

RADII = {"linf": 0.06, "l2": 0.45, "l1": 3.0, "l0": 1, "patch": 2, "spatial": 30}
SMALL = {
    **{"steps": 4, "restarts": 2, "angles": 3, "shifts": 2, "neighbours": 4, "copies": 3},
    **{"weights": 6, "rounds": 4, "strides": 4},
}
VARIANTS = {
    "apgd": [{"targets": 3, "loss": "targeted_dlr", "restarts": 1}],
    "pgd": [
        {"loss": "scaled_ce", "schedule": "cosine"},
        {"diversify": 2, "restarts": 1},
        {"targets": 2, "loss": "margin", "restarts": 1},
    ],
    "square": [{"patience": 1.5, "steps": 40, "restarts": 1}],
    "fab": [{"targets": 0}],
    "di": [{"probability": 1.0}],
    "ti": [{"probability": 1.0}],
    "si": [{"nesterov": False}],
    "vmi": [{"nesterov": True, "neighbours": 3}],
    "friendly": [{"tau": 2}, {"tau": 1, "loss": "margin"}],
    "ddn": [{"loss": "margin"}],
    "fmn": [{"loss": "ce"}],
    "cw": [{"abort": False, "rounds": 3}],
    "ead": [{"abort": False, "rounds": 3}],
    "deep_fool": [{"candidates": 1, "halvings": 0}],
    "lbfgs": [{"targets": 2, "weights": 3}],
    "jsma": [{"targets": 0}],
    "sparse_fool": [{"reach": 3.0, "halvings": 0}],
    "nes": [{"samples": 2, "steps": 11}],
    "boundary": [{"starts": 2, "steps": 40}],
    "hop_skip_jump": [{"frequencies": 0.5, "starts": 2, "samples": 4, "steps": 50}],
    "geo_da": [{"starts": 2, "samples": 4, "steps": 50}],
    "adversarial_patch": [{"candidates": 1, "schedule": "constant"}],
    "spatial_gradient": [{"loss": "ce", "schedule": "constant"}],
}
"""Further configurations that change which code runs."""


def attacks() -> list[tuple[str, Attack]]:
    """Every registered attack, made cheap, and its variants."""
    found = []
    for name, kind in contract.registered("attack"):
        fields = {f.name for f in dataclasses.fields(kind)}
        small = kind(**{key: value for key, value in SMALL.items() if key in fields})
        found.append((name, small))
        for more in VARIANTS.get(name, []):
            found.append((f"{name}-{next(iter(more.values()))}", dataclasses.replace(small, **more)))
    return found


def threats(attack: Attack) -> list[Threat]:
    return [registry.load("threat", name)(RADII[name]) for name in attack.threats]


ATTACKS = attacks()
PAIRS = [
    pytest.param(attack, threat, id=f"{name}-{threat.name}") for name, attack in ATTACKS for threat in threats(attack)
]
each_attack = pytest.mark.parametrize("attack", [pytest.param(attack, id=name) for name, attack in ATTACKS])
ONE_SET = [
    pytest.param(attack, threats(attack)[place % len(attack.threats)], id=name)
    for place, (name, attack) in enumerate(ATTACKS)
]
"""For what hangs on the attack alone: each on one of its sets, all sets in their turn."""
each_pair = pytest.mark.parametrize(("attack", "threat"), PAIRS)


def test_every_attack_is_here():
    assert {registry.name_of(attack) for _, attack in ATTACKS} == set(registry.names("attack"))
    assert len(PAIRS) >= 7


@each_attack
def test_is_described(attack):
    contract.is_described(attack)
    contract.is_described(type(attack)())  # with its defaults, too


@each_attack
def test_refuses_what_it_cannot_do(attack):
    contract.refuses_what_it_cannot_do(attack)


@each_pair
@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_contract(attack, threat, clause):
    clause(attack, threat)


@pytest.mark.parametrize(("attack", "threat"), ONE_SET)
@pytest.mark.parametrize("clause", contract.OF_THE_ATTACK, ids=lambda clause: clause.__name__)
def test_contract_whatever_the_set(attack, threat, clause):
    clause(attack, threat)


@each_pair
def test_ignores_the_number_of_slots(attack, threat, record_property):
    record_property("largest_difference_of_a_pixel_float64", contract.ignores_the_number_of_slots(attack, threat))


@pytest.mark.parametrize(("attack", "threat"), ONE_SET)
def test_differs_little_in_float32(attack, threat, record_property):
    difference = contract.differs_little_in_float32(attack, threat)
    print(f"float32, slots {contract.FEW}: {difference}")
    for name, value in difference._asdict().items():
        record_property(f"float32_{name}", value)


@pytest.mark.parametrize("name", sorted(RADII))
def test_the_cases_are_neither_hopeless_nor_trivial(name):
    """Some samples fall to some attack and some withstand all: else the clauses above would hold for nothing."""
    threat = registry.load("threat", name)(RADII[name])
    broken = []
    exact = contract.case("exact")
    for attack in (attack for _, attack in ATTACKS if name in attack.threats):
        for (net, x, y), found in (
            contract.outcome(attack, threat),
            (exact, attack(exact.net, exact.x, exact.y, threat=threat)),
        ):
            broken.append(found.fooled[net(x).argmax(1) == y].tolist())
    assert sum(any(one) and not all(one) for one in broken) >= len(broken) / 4


@pytest.mark.parametrize(
    ("attack", "name"),
    [(APGD(steps=4, targets=2, loss="targeted_dlr"), "l2"), (PGD(steps=4), "linf")],
    ids=["apgd-l2", "pgd-linf"],
)
def test_more_samples_than_slots(attack, name):
    """72 samples: more than 64 slots hold."""
    threat = registry.load("threat", name)(RADII[name])
    net, x, y = contract.case("exact", count=72)
    results = [attack(net, x, y, threat=threat, slots=slots) for slots in (None, 7, 64)]
    for result in results[1:]:
        contract.assert_same(results[0], result)
