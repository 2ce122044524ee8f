"""Floor 2: the searches for the worst perturbation. One file is one attack, and its name is the file's.

Every registered class can be taken from here: ``holdfast.attacks.PGD``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.foundation import registry

if TYPE_CHECKING:
    from holdfast.attacks.adversarial_patch import AdversarialPatch as AdversarialPatch
    from holdfast.attacks.apgd import APGD as APGD
    from holdfast.attacks.bim import BIM as BIM
    from holdfast.attacks.blur import Blur as Blur
    from holdfast.attacks.boundary import Boundary as Boundary
    from holdfast.attacks.contrast_reduction import ContrastReduction as ContrastReduction
    from holdfast.attacks.cw import CW as CW
    from holdfast.attacks.ddn import DDN as DDN
    from holdfast.attacks.deep_fool import DeepFool as DeepFool
    from holdfast.attacks.di import DI as DI
    from holdfast.attacks.ead import EAD as EAD
    from holdfast.attacks.fab import FAB as FAB
    from holdfast.attacks.fgsm import FGSM as FGSM
    from holdfast.attacks.fmn import FMN as FMN
    from holdfast.attacks.gaussian_noise import GaussianNoise as GaussianNoise
    from holdfast.attacks.geo_da import GeoDA as GeoDA
    from holdfast.attacks.hop_skip_jump import HopSkipJump as HopSkipJump
    from holdfast.attacks.jsma import JSMA as JSMA
    from holdfast.attacks.lbfgs import LBFGS as LBFGS
    from holdfast.attacks.mim import MIM as MIM
    from holdfast.attacks.n_fgsm import NFGSM as NFGSM
    from holdfast.attacks.nes import NES as NES
    from holdfast.attacks.ni import NI as NI
    from holdfast.attacks.pgd import PGD as PGD
    from holdfast.attacks.rs_fgsm import RSFGSM as RSFGSM
    from holdfast.attacks.salt_and_pepper import SaltAndPepper as SaltAndPepper
    from holdfast.attacks.si import SI as SI
    from holdfast.attacks.sparse_fool import SparseFool as SparseFool
    from holdfast.attacks.spatial_gradient import SpatialGradient as SpatialGradient
    from holdfast.attacks.spatial_grid import SpatialGrid as SpatialGrid
    from holdfast.attacks.spatial_random import SpatialRandom as SpatialRandom
    from holdfast.attacks.spsa import SPSA as SPSA
    from holdfast.attacks.square import Square as Square
    from holdfast.attacks.ti import TI as TI
    from holdfast.attacks.uniform_noise import UniformNoise as UniformNoise
    from holdfast.attacks.vmi import VMI as VMI


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name in registry.names("attack"):  # a file's name is its module, not its class
        raise AttributeError(name)
    for entry in registry.names("attack"):
        if entry.replace("_", "") == name.lower():
            globals()[name] = registry.load("attack", entry)
            return globals()[name]
    raise AttributeError(f"holdfast has no attack {name!r}; it has: {', '.join(registry.names('attack'))}")
