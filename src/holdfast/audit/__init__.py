"""Floor 4: how an evaluation is planned, run, resumed, believed or doubted.

Calling this package is calling `holdfast.audit.api.audit`. The two share the name ``holdfast.audit``: importing any module
of the package puts the package there, whatever stood there before, so that the package has to answer for both.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.audit.api import Audit


class _Audit(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Audit:
        from holdfast.audit.api import audit

        return audit(*args, **options)


sys.modules[__name__].__class__ = _Audit
