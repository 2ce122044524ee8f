"""holdfast: how robust is an image classifier, how to make it robust, and why it is or is not."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import attacks as attacks
    from holdfast.ascent.attack import Attack as Attack
    from holdfast.ascent.attack import Perturbed as Perturbed
    from holdfast.ascent.backward import Backward as Backward
    from holdfast.audit.api import Audit as Audit
    from holdfast.audit.api import audit as audit
    from holdfast.audit.certified.api import SmoothingAudit as SmoothingAudit
    from holdfast.audit.certified.api import audit_smoothing as audit_smoothing
    from holdfast.audit.corrupted.api import CorruptionAudit as CorruptionAudit
    from holdfast.audit.corrupted.api import audit_corruptions as audit_corruptions
    from holdfast.audit.defended.api import DefenceAudit as DefenceAudit
    from holdfast.audit.defended.api import audit_defence as audit_defence
    from holdfast.audit.detected.api import DetectorAudit as DetectorAudit
    from holdfast.audit.detected.api import audit_detectors as audit_detectors
    from holdfast.audit.perturbed.api import audit_perturbations as audit_perturbations
    from holdfast.audit.plan import Plan as Plan
    from holdfast.audit.plan import Stage as Stage
    from holdfast.explain.api import explain as explain
    from holdfast.foundation.errors import HoldfastError as HoldfastError
    from holdfast.threats.l0 import L0 as L0
    from holdfast.threats.l1 import L1 as L1
    from holdfast.threats.l2 import L2 as L2
    from holdfast.threats.linf import Linf as Linf
    from holdfast.threats.patch import Patch as Patch
    from holdfast.threats.spatial import Spatial as Spatial
    from holdfast.threats.threat import Threat as Threat

__version__ = "0.1.0"

# Public name -> where it lives. Looked up on first use, so that `import holdfast` imports no torch (PEP 562).
_PUBLIC = {
    "Attack": "holdfast.ascent.attack",
    "Audit": "holdfast.audit.api",
    "Backward": "holdfast.ascent.backward",
    "CorruptionAudit": "holdfast.audit.corrupted.api",
    "DefenceAudit": "holdfast.audit.defended.api",
    "DetectorAudit": "holdfast.audit.detected.api",
    "HoldfastError": "holdfast.foundation.errors",
    "L0": "holdfast.threats.l0",
    "L1": "holdfast.threats.l1",
    "L2": "holdfast.threats.l2",
    "Linf": "holdfast.threats.linf",
    "Patch": "holdfast.threats.patch",
    "Perturbed": "holdfast.ascent.attack",
    "Plan": "holdfast.audit.plan",
    "SmoothingAudit": "holdfast.audit.certified.api",
    "Spatial": "holdfast.threats.spatial",
    "Stage": "holdfast.audit.plan",
    "Threat": "holdfast.threats.threat",
    "audit_corruptions": "holdfast.audit.corrupted.api",
    "audit_defence": "holdfast.audit.defended.api",
    "audit_detectors": "holdfast.audit.detected.api",
    "audit_perturbations": "holdfast.audit.perturbed.api",
    "audit_smoothing": "holdfast.audit.certified.api",
}

__all__ = ["L0", "L1", "L2", "Attack", "Audit", "Backward", "CorruptionAudit", "DefenceAudit"]
__all__ += ["DetectorAudit", "HoldfastError", "Linf"]
__all__ += [
    "Patch",
    "Perturbed",
    "Plan",
    "SmoothingAudit",
    "Spatial",
    "Stage",
    "Threat",
    "__version__",
    "attacks",
    "audit",
]
__all__ += ["audit_corruptions", "audit_defence", "audit_detectors", "audit_perturbations", "audit_smoothing"]
__all__ += ["explain"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
    elif name in ("attacks", "audit", "explain"):  # packages; the last two can be called
        value = import_module(f"holdfast.{name}")
    else:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}{_near(name)}")
    globals()[name] = value
    return value


def _near(name: str) -> str:
    """Where that name is meant, perhaps: in other letters here, or among the attacks."""
    near = [each for each in __all__ if each.casefold() == name.casefold()]
    if not near and not name.startswith("_"):
        from holdfast.foundation import registry

        near = [f"attacks.{name}" for each in registry.names("attack") if each.replace("_", "") == name.casefold()]
    return f"; did you mean holdfast.{near[0]}?" if near else ""


def __dir__() -> list[str]:
    return sorted(__all__)
