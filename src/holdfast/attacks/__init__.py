"""Floor 2: the searches for the worst perturbation. One file is one attack, and its name is the file's.

Every registered class can be taken from here: ``holdfast.attacks.PGD``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.foundation import registry

if TYPE_CHECKING:
    from holdfast.attacks.apgd import APGD as APGD
    from holdfast.attacks.bim import BIM as BIM
    from holdfast.attacks.fab import FAB as FAB
    from holdfast.attacks.fgsm import FGSM as FGSM
    from holdfast.attacks.mim import MIM as MIM
    from holdfast.attacks.n_fgsm import NFGSM as NFGSM
    from holdfast.attacks.pgd import PGD as PGD
    from holdfast.attacks.rs_fgsm import RSFGSM as RSFGSM
    from holdfast.attacks.square import Square as Square


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    for entry in registry.names("attack"):
        if entry.replace("_", "") == name.lower():
            globals()[name] = registry.load("attack", entry)
            return globals()[name]
    raise AttributeError(f"holdfast has no attack {name!r}; it has: {', '.join(registry.names('attack'))}")
