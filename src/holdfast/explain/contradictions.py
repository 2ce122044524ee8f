"""The contradiction checker: facts of different questions about the same images, held against one another.

Each rule follows from a definition: a breach means that an attack failed, a bound is no bound, or gradients are masked.
Sources: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018), section 3.1; Carlini
et al., "On evaluating adversarial robustness" (2019), section 4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

from holdfast.explain.case import NORMS
from holdfast.explain.found import Distance, Found, Right

ROUNDING = 1e-5
"""By how much, as a share, a distance may be short of a certificate: attacks and models count in float32."""
MISSED = 0.02
"""The share of images, and at least two of them, that a search may miss by chance before a stronger one is doubted."""


def contradictions(answers: Iterable[Found]) -> tuple[str, ...]:
    """What the answers say against one another and against themselves, a sentence each; none is what is hoped for."""
    answers = list(answers)
    found = [breach for answer in answers for breach in answer.breaches]
    found += of_distances([each for answer in answers for each in answer.distances])
    found += of_rights([each for answer in answers for each in answer.rights])
    return tuple(dict.fromkeys(found))


def of_distances(facts: Sequence[Distance]) -> Iterator[str]:
    """No attack succeeds inside a certificate, and the boundary is not nearer in a random direction than to the attacks."""
    for (net, norm), group in _by(facts, lambda each: (each.net, each.norm)).items():
        attacks = _smallest(each for each in group if each.kind == "attack")
        for fact in group:
            pairs = [
                (one, value, attacks[one])
                for one, value in zip(fact.ids, fact.values)
                if value is not None and one in attacks
            ]
            if fact.kind == "certified":
                broken = [one for one, low, high in pairs if high < low * (1 - ROUNDING)]
                if broken:
                    yield (
                        f"{net}: {_images(broken)} of {len(pairs)} misclassified inside the {NORMS[norm]} radius that "
                        f"{fact.by} certified: the certificate, or the evaluation, is wrong"
                    )
            if fact.kind == "random":
                nearer = [one for one, value, attack in pairs if value < attack * (1 - ROUNDING)]
                if len(nearer) > max(1, MISSED * len(pairs)):
                    yield (
                        f"{net}: for {_images(nearer)} of {len(pairs)} the boundary is nearer along a random direction than "
                        f"the attacks found it in {NORMS[norm]}: the attacks failed, or gradients are masked"
                    )


def of_rights(facts: Sequence[Right]) -> Iterator[str]:
    """Robust accuracy does not rise with radius or effort; white-box attacks break what transfer and noise break."""
    for (net, norm), group in _by(facts, lambda each: (each.net, each.norm)).items():
        for weak, strong in permutations(group, 2):
            if weak.how == strong.how and weak.by == strong.by and _more(weak, strong):
                held = _held([strong])
                risen = [one for one, right in zip(weak.ids, weak.right) if one in held and not right]
                if risen:
                    yield (
                        f"{net}: {_images(risen)} of {len(weak.ids)} are wrong after {_said(weak)} and right after "
                        f"{_said(strong)}, {NORMS[norm]}, which contains it: the stronger search does not keep what the "
                        "weaker one found"
                    )
        for weak in group:
            strong = [each for each in group if each.how == "white box" and each.eps >= weak.eps]
            if weak.how == "white box" or not strong:
                continue
            held = _held(strong)
            missed = [one for one, right in zip(weak.ids, weak.right) if one in held and not right]
            if len(missed) > max(1, MISSED * len(weak.ids)):
                yield (
                    f"{net}: {_said(weak)} breaks {_images(missed)} of {len(weak.ids)} that white-box searches leave right, "
                    f"{NORMS[norm]} ({'; '.join(dict.fromkeys(each.by for each in strong))}): the white-box number is too "
                    "high; gradients are masked, or the searches are too short"
                )


def _held(facts: Sequence[Right]) -> set[int]:
    """The images that some of the facts are about, and that are right in all of these."""
    seen = {one for fact in facts for one in fact.ids}
    return seen - {one for fact in facts for one, right in zip(fact.ids, fact.right) if not right}


def _more(weak: Right, strong: Right) -> bool:
    """Whether the second is the same search with more of something and with less of nothing."""
    return (
        strong.eps >= weak.eps
        and strong.strength >= weak.strength
        and (strong.eps, strong.strength) != (weak.eps, weak.strength)
    )


def _smallest(facts: Iterable[Distance]) -> dict[int, float]:
    nearest: dict[int, float] = {}
    for fact in facts:
        for one, value in zip(fact.ids, fact.values):
            if value is not None:
                nearest[one] = min(value, nearest.get(one, value))
    return nearest


def _by(facts: Sequence, key) -> dict:
    groups = defaultdict(list)
    for fact in facts:
        groups[key(fact)].append(fact)
    return groups


def _said(fact: Right) -> str:
    more = f", strength {fact.strength:,}" if fact.strength != 1 else ""
    return f"{fact.by} ({fact.how}, eps {fact.eps:.3g}{more})"


def _images(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} images ({shown})" if len(ids) > 1 else f"image {shown}"
